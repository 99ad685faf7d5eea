PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE ships(id integer primary key, name text, note text, flag blob);
INSERT INTO ships VALUES(1,'ship ''1',replace('two\nlines','\n',char(10)),X'0102');
INSERT INTO ships VALUES(2,'ship ''2',replace('two\nlines','\n',char(10)),X'0102');
INSERT INTO ships VALUES(3,'ship ''3',replace('two\nlines','\n',char(10)),X'0102');
INSERT INTO ships VALUES(4,'ship ''4',replace('two\nlines','\n',char(10)),X'0102');
INSERT INTO ships VALUES(5,'ship ''5',replace('two\nlines','\n',char(10)),X'0102');
INSERT INTO ships VALUES(6,'ship ''6',replace('two\nlines','\n',char(10)),X'0102');
CREATE TABLE scripts(body text);
INSERT INTO scripts VALUES(replace('PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nSELECT 1;','\n',char(10)));
CREATE VIEW v as select id
from ships;
COMMIT;
