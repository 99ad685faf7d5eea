--
-- PostgreSQL database dump
--

\restrict H1jzVXIpHJEmdGZuCj7mo3pYh9EoOeASgS1GkjrD1u27kAShjOd7gIsVckig6aT

-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: empty; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.empty (
    id integer
);


ALTER TABLE public.empty OWNER TO postgres;

--
-- Name: s; Type: SEQUENCE; Schema: public; Owner: postgres
--

CREATE SEQUENCE public.s
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


ALTER TABLE public.s OWNER TO postgres;

--
-- Name: ships; Type: TABLE; Schema: public; Owner: postgres
--

CREATE TABLE public.ships (
    id integer NOT NULL,
    name text
);


ALTER TABLE public.ships OWNER TO postgres;

--
-- Name: v; Type: VIEW; Schema: public; Owner: postgres
--

CREATE VIEW public.v AS
 SELECT ships.id,
    ships.name
   FROM public.ships;


ALTER TABLE public.v OWNER TO postgres;

--
-- Name: 16399; Type: BLOB; Schema: -; Owner: postgres
--

SELECT pg_catalog.lo_create('16399');


ALTER LARGE OBJECT 16399 OWNER TO postgres;

--
-- Data for Name: empty; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.empty (id) FROM stdin;
\.


--
-- Data for Name: ships; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.ships (id, name) FROM stdin;
1	c4ca4238a0b923820dcc509a6f75849b
2	c81e728d9d4c2f636f067f89cc14862c
3	eccbc87e4b5ce2fe28308fd9f2a7baf3
4	a87ff679a2f3e71d9181a67b7542122c
5	e4da3b7fbbce2345d7772b0674a318d5
6	1679091c5a880faf6fb5e6087eb1b2dc
7	8f14e45fceea167a5a36dedd4bea2543
8	c9f0f895fb98ab9159f51fd0297e236d
9	45c48cce2e2d7fbdea1afc51c7c6ad26
10	d3d9446802a44259755d38e6d163e820
11	6512bd43d9caa6e02c990b0a82652dca
12	c20ad4d76fe97759aa27a0c99bff6710
13	c51ce410c124a10e0db5e4b97fc2af39
14	aab3238922bcc25a6f606eb525ffdc56
15	9bf31c7ff062936a96d3c8bd1f8f2ff3
16	c74d97b01eae257e44aa9d5bade97baf
17	70efdf2ec9b086079795c442636b55fb
18	6f4922f45568161a8cdf4ad2299f6d23
19	1f0e3dad99908345f7439f8ffabdffc4
20	98f13708210194c475687be6106a3b84
21	3c59dc048e8850243be8079a5c74d079
22	b6d767d2f8ed5d21a44b0e5886680cb9
23	37693cfc748049e45d87b8c7d8b9aacd
24	1ff1de774005f8da13f42943881c655f
25	8e296a067a37563370ded05f5a3bf3ec
26	4e732ced3463d06de0ca9a15b6153677
27	02e74f10e0327ad868d138f2b4fdd6f0
28	33e75ff09dd601bbe69f351039152189
29	6ea9ab1baa0efb9e19094440c317e21b
30	34173cb38f07f89ddbebc2ac9128303f
31	c16a5320fa475530d9583c34fd356ef5
32	6364d3f0f495b6ab9dcf8d3b5c6e0b01
33	182be0c5cdcd5072bb1864cdee4d3d6e
34	e369853df766fa44e1ed0ff613f563bd
35	1c383cd30b7c298ab50293adfecb7b18
36	19ca14e7ea6328a42e0eb13d585e4c22
37	a5bfc9e07964f8dddeb95fc584cd965d
38	a5771bce93e200c36f7cd9dfd0e5deaa
39	d67d8ab4f4c10bf22aa353e27879133c
40	d645920e395fedad7bbbed0eca3fe2e0
\.


--
-- Name: s; Type: SEQUENCE SET; Schema: public; Owner: postgres
--

SELECT pg_catalog.setval('public.s', 1, false);


--
-- Data for Name: BLOBS; Type: BLOBS; Schema: -; Owner: -
--

BEGIN;

SELECT pg_catalog.lo_open('16399', 131072);
SELECT pg_catalog.lowrite(0, '\x61206c61726765206f626a656374');
SELECT pg_catalog.lo_close(0);

COMMIT;

--
-- Name: ships ships_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.ships
    ADD CONSTRAINT ships_pkey PRIMARY KEY (id);


--
-- PostgreSQL database dump complete
--

\unrestrict H1jzVXIpHJEmdGZuCj7mo3pYh9EoOeASgS1GkjrD1u27kAShjOd7gIsVckig6aT

