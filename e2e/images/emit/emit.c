/* A test program that writes a known sequence of bytes, misbehaves on demand, and checks a
 * sequence that comes back. Static and small: it starts in a millisecond and needs no shell.
 *
 *   emit --bytes N [--seed S] [--kind random|text|zero|every]
 *        [--stderr-bytes N]                  first, N bytes of "text" on stderr
 *        [--read-stdin]                      then a copy of stdin on stdout, before the bytes
 *        [--stall-after N --stall SECONDS]   a pause after exactly N bytes
 *        [--rate BYTES_PER_SECOND]
 *        [--background-child SECONDS]        leaves a child that holds stdout and stderr
 *        [--ignore-term] [--sleep SECONDS]   sleeps before it exits
 *        [--exit CODE]
 *   emit --check --bytes N [--seed S] [--kind K]   exits 0 only if stdin is exactly that sequence
 *   emit --idle                                    sleeps for ever; TERM ends it; reaps children
 *
 * N may end in k, m or g (times 1024). SECONDS may have a fraction. The sequences:
 *   zero    every byte is 0
 *   every   byte i is i modulo 256
 *   text    line i, from 0, is these 64 bytes,
 *             INSERT INTO stowage VALUES (00000000000000000000, 'starboard');
 *           with a newline at the end, the number being seed + i in 20 digits
 *   random  xorshift64*: x = seed (default 1; 0 becomes 0x9e3779b97f4a7c15); for each 8 bytes:
 *             x ^= x >> 12; x ^= x << 25; x ^= x >> 27;
 *             the bytes of x * 0x2545f4914f6cdd1d modulo 2^64, lowest first
 * The last line or word is cut where N says. The default kind is random, the default seed 1.
 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A multiple of each sequence's unit (256, 64 and 8 bytes), so that every full chunk starts one. */
#define CHUNK ((size_t)256 * 1024)
#define LINE 64
#define DIGITS_AT 28
#define DIGITS 20

struct sequence {
	enum { RANDOM, TEXT, ZERO, EVERY } kind;
	uint64_t word;
	char line[LINE + 1];
};

static unsigned char chunk[CHUNK], incoming[CHUNK];

static void die(const char *what, const char *detail) {
	fprintf(stderr, "emit: %s %s\n", what, detail);
	exit(2);
}

static void begin(struct sequence *sequence, const char *kind, uint64_t seed) {
	if (!strcmp(kind, "random")) sequence->kind = RANDOM;
	else if (!strcmp(kind, "text")) sequence->kind = TEXT;
	else if (!strcmp(kind, "zero")) sequence->kind = ZERO;
	else if (!strcmp(kind, "every")) sequence->kind = EVERY;
	else die("no such kind:", kind);
	sequence->word = seed ? seed : 0x9e3779b97f4a7c15u;
	snprintf(sequence->line, sizeof sequence->line, "INSERT INTO stowage VALUES (%020llu, 'starboard');\n",
	         (unsigned long long)seed);
}

/* Fills the whole chunk with the next bytes. */
static void next_chunk(struct sequence *sequence) {
	switch (sequence->kind) {
	case RANDOM: {
		uint64_t x = sequence->word;
		for (size_t at = 0; at < CHUNK; at += 8) {
			x ^= x >> 12, x ^= x << 25, x ^= x >> 27;
			uint64_t out = x * 0x2545f4914f6cdd1du;
			memcpy(chunk + at, &out, 8); /* the machines we build for are little endian */
		}
		sequence->word = x;
		break;
	}
	case TEXT:
		for (size_t at = 0; at < CHUNK; at += LINE) {
			memcpy(chunk + at, sequence->line, LINE);
			for (int digit = DIGITS_AT + DIGITS - 1; digit >= DIGITS_AT; digit--) {
				if (sequence->line[digit]++ != '9') break;
				sequence->line[digit] = '0';
			}
		}
		break;
	case ZERO: memset(chunk, 0, CHUNK); break;
	case EVERY:
		for (size_t at = 0; at < CHUNK; at++) chunk[at] = (unsigned char)at;
		break;
	}
}

static void write_all(int descriptor, const unsigned char *bytes, size_t length) {
	while (length > 0) {
		ssize_t written = write(descriptor, bytes, length);
		if (written < 0 && errno == EINTR) continue;
		if (written < 0) die("cannot write:", strerror(errno));
		bytes += written;
		length -= (size_t)written;
	}
}

static size_t read_some(unsigned char *bytes, size_t length) {
	ssize_t got;
	do got = read(STDIN_FILENO, bytes, length);
	while (got < 0 && errno == EINTR);
	if (got < 0) die("cannot read:", strerror(errno));
	return (size_t)got;
}

static void pause_for(double seconds) {
	struct timespec left = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
	while (nanosleep(&left, &left) < 0 && errno == EINTR) {}
}

static double now(void) {
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void emit(int descriptor, struct sequence *sequence, uint64_t bytes, uint64_t stall_after, double stall,
                 double rate) {
	double start = now();
	uint64_t sent = 0;
	while (sent < bytes) {
		size_t filled = bytes - sent < CHUNK ? (size_t)(bytes - sent) : CHUNK, at = 0;
		next_chunk(sequence);
		while (at < filled) {
			size_t step = filled - at;
			if (stall > 0 && sent < stall_after && stall_after - sent < step) step = (size_t)(stall_after - sent);
			if (rate > 0 && (double)step > rate / 20 + 1) step = (size_t)(rate / 20) + 1;
			if (stall > 0 && sent == stall_after) {
				pause_for(stall);
				start += stall;
				stall = 0;
			}
			write_all(descriptor, chunk + at, step);
			at += step;
			sent += step;
			double early = rate > 0 ? start + (double)sent / rate - now() : 0;
			if (early > 0) pause_for(early);
		}
	}
	if (stall > 0 && sent == stall_after) pause_for(stall);
}

static int check(struct sequence *sequence, uint64_t bytes) {
	uint64_t seen = 0;
	size_t at = CHUNK, got;
	while ((got = read_some(incoming, CHUNK)) > 0) {
		for (size_t used = 0; used < got;) {
			if (at == CHUNK) next_chunk(sequence), at = 0;
			size_t step = got - used < CHUNK - at ? got - used : CHUNK - at;
			if (seen + step > bytes) {
				fprintf(stderr, "emit: more than %llu bytes came\n", (unsigned long long)bytes);
				return 1;
			}
			if (memcmp(incoming + used, chunk + at, step)) {
				while (incoming[used] == chunk[at]) used++, at++, seen++;
				fprintf(stderr, "emit: byte %llu is another\n", (unsigned long long)seen);
				return 1;
			}
			used += step, at += step, seen += step;
		}
	}
	if (seen == bytes) return 0;
	fprintf(stderr, "emit: %llu bytes came and not %llu\n", (unsigned long long)seen, (unsigned long long)bytes);
	return 1;
}

/* As the first process of a container: signals are taken one by one, so none needs a handler. */
static int idle(void) {
	sigset_t signals;
	int signal;
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGCHLD);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	while (sigwait(&signals, &signal) || signal == SIGCHLD)
		while (waitpid(-1, NULL, WNOHANG) > 0) {}
	return 0;
}

static uint64_t number(const char *text) {
	char *end;
	errno = 0;
	uint64_t value = strtoull(text, &end, 10);
	if (*end == 'k' && end++) value <<= 10;
	else if (*end == 'm' && end++) value <<= 20;
	else if (*end == 'g' && end++) value <<= 30;
	if (errno || end == text || *end || *text == '-') die("not a number:", text);
	return value;
}

static double seconds(const char *text) {
	char *end;
	double value = strtod(text, &end);
	if (end == text || *end || !(value >= 0)) die("not a number of seconds:", text);
	return value;
}

int main(int count, char **arguments) {
	uint64_t bytes = 0, seed = 1, stderr_bytes = 0, stall_after = 0;
	double stall = 0, rate = 0, child = 0, sleep_before_exit = 0;
	const char *kind = "random";
	int code = 0, checking = 0, read_stdin = 0;
	struct sequence sequence;

	for (int i = 1; i < count; i++) {
		const char *name = arguments[i];
		if (!strcmp(name, "--idle")) return idle();
		if (!strcmp(name, "--check")) { checking = 1; continue; }
		if (!strcmp(name, "--read-stdin")) { read_stdin = 1; continue; }
		if (!strcmp(name, "--ignore-term")) { signal(SIGTERM, SIG_IGN); continue; }
		const char *value = arguments[++i];
		if (!value) die("an option without its value, or unknown:", name);
		if (!strcmp(name, "--bytes")) bytes = number(value);
		else if (!strcmp(name, "--seed")) seed = number(value);
		else if (!strcmp(name, "--kind")) kind = value;
		else if (!strcmp(name, "--stderr-bytes")) stderr_bytes = number(value);
		else if (!strcmp(name, "--exit")) code = (int)number(value);
		else if (!strcmp(name, "--stall-after")) stall_after = number(value);
		else if (!strcmp(name, "--stall")) stall = seconds(value);
		else if (!strcmp(name, "--rate")) rate = (double)number(value);
		else if (!strcmp(name, "--background-child")) child = seconds(value);
		else if (!strcmp(name, "--sleep")) sleep_before_exit = seconds(value);
		else die("unknown option:", name);
	}

	begin(&sequence, kind, seed);
	if (checking) return check(&sequence, bytes);
	if (child > 0 && fork() == 0) {
		pause_for(child);
		return 0;
	}
	if (stderr_bytes > 0) {
		struct sequence words;
		begin(&words, "text", 0);
		emit(STDERR_FILENO, &words, stderr_bytes, 0, 0, 0);
	}
	if (read_stdin)
		for (size_t got; (got = read_some(incoming, CHUNK)) > 0;) write_all(STDOUT_FILENO, incoming, got);
	emit(STDOUT_FILENO, &sequence, bytes, stall_after, stall, rate);
	pause_for(sleep_before_exit);
	return code;
}
