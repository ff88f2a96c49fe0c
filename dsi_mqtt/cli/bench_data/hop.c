/* What a hop costs a plain C client: an echo through a broker, one message outstanding.
 *
 *     hop pong --port P --tag T
 *     hop ping --port P --tag T --bytes B --messages N
 *
 * `pong` prints "ready" once its subscription stands, sends back whatever arrives, and ends with
 * the empty message that `ping` sends last. `ping` prints one JSON object: half round trips in
 * microseconds. Both end with status 1 and one sentence on stderr when something is wrong.
 *
 * libmosquitto is driven from a poll loop of our own rather than by mosquitto_loop(): that saves
 * it a select() and a copy for every message, so that the baseline is a fast one.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

enum { TOPIC_MAX = 128, SILENCE_MAX_MS = 30000, KEEP_ALIVE_S = 60 };

struct options {
	const char *host, *tag;
	int port, qos, bytes, messages, warmup;
	bool samples;
};

struct echo {
	struct mosquitto *client;
	struct options options;
	char receive_topic[TOPIC_MAX], send_topic[TOPIC_MAX];
	bool is_pong, subscribed, ended;
	int32_t sent, received;
};

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "hop: %s: %s\n", what, why);
	exit(1);
}

static void check(int code, const char *what)
{
	if (code != MOSQ_ERR_SUCCESS)
		fail(what, code == MOSQ_ERR_ERRNO ? strerror(errno) : mosquitto_strerror(code));
}

/* Asks the kernel to end this process when the command that started it ends. */
static void end_with_parent(void)
{
#ifdef __linux__
	const char *parent = getenv("DSI_MQTT_PARENT");

	if (!parent)
		return;
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != atoi(parent))
		exit(0);
#endif
}

static double now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static void send_message(struct echo *echo, const void *payload, int size)
{
	check(mosquitto_publish(echo->client, NULL, echo->send_topic, size, payload,
				echo->options.qos, false),
	      "publish");
}

static void on_connect(struct mosquitto *client, void *context, int reason)
{
	struct echo *echo = context;

	if (reason != 0)
		fail("connect", mosquitto_reason_string(reason));
	check(mosquitto_subscribe(client, NULL, echo->receive_topic, echo->options.qos), "subscribe");
}

static void on_subscribe(struct mosquitto *client, void *context, int id, int count,
			 const int *granted)
{
	struct echo *echo = context;

	(void)client, (void)id;
	if (count != 1 || granted[0] != echo->options.qos)
		fail("subscribe", "the broker granted another QoS");
	echo->subscribed = true;
}

static void on_message(struct mosquitto *client, void *context,
		       const struct mosquitto_message *message)
{
	struct echo *echo = context;

	(void)client;
	if (echo->is_pong) {
		echo->ended = message->payloadlen == 0;
		if (!echo->ended)
			send_message(echo, message->payload, message->payloadlen);
		return;
	}
	if (message->payloadlen != echo->options.bytes ||
	    memcmp(message->payload, &echo->sent, sizeof echo->sent) != 0)
		fail("echo", "what came back is not what was sent");
	echo->received = echo->sent;
}

static void on_disconnect(struct mosquitto *client, void *context, int reason)
{
	(void)client, (void)context;
	if (reason != 0)
		fail("the broker closed the connection", mosquitto_reason_string(reason));
}

/* Waits for the socket, once, and reads or writes what it is ready for. */
static void turn(struct echo *echo)
{
	bool writing = mosquitto_want_write(echo->client);
	struct pollfd socket = {.fd = mosquitto_socket(echo->client),
				.events = (short)(POLLIN | (writing ? POLLOUT : 0))};
	int ready = poll(&socket, 1, echo->is_pong ? KEEP_ALIVE_S * 500 : SILENCE_MAX_MS);

	if (ready < 0)
		fail("poll", strerror(errno));
	if (ready == 0 && !echo->is_pong)
		fail("echo", "none came within 30 s; is pong running with the same --tag?");
	if (socket.revents & POLLOUT)
		check(mosquitto_loop_write(echo->client, 1), "write");
	if (socket.revents & (POLLIN | POLLHUP | POLLERR))
		check(mosquitto_loop_read(echo->client, 1), "read");
	/* What a callback has published is only queued: send it without another wait. */
	if (!writing && mosquitto_want_write(echo->client))
		check(mosquitto_loop_write(echo->client, 1), "write");
	check(mosquitto_loop_misc(echo->client), "keep-alive");
}

static void open_echo(struct echo *echo, const struct options *options, bool is_pong)
{
	const char *inbox = is_pong ? "ping" : "pong", *outbox = is_pong ? "pong" : "ping";

	echo->options = *options;
	echo->is_pong = is_pong;
	snprintf(echo->receive_topic, TOPIC_MAX, "dsi-bench/%s/%s", options->tag, inbox);
	snprintf(echo->send_topic, TOPIC_MAX, "dsi-bench/%s/%s", options->tag, outbox);
	mosquitto_lib_init();
	echo->client = mosquitto_new(NULL, true, echo);
	if (!echo->client)
		fail("client", strerror(errno));
	mosquitto_int_option(echo->client, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
	mosquitto_int_option(echo->client, MOSQ_OPT_TCP_NODELAY, 1);
	mosquitto_connect_callback_set(echo->client, on_connect);
	mosquitto_subscribe_callback_set(echo->client, on_subscribe);
	mosquitto_message_callback_set(echo->client, on_message);
	mosquitto_disconnect_callback_set(echo->client, on_disconnect);
	check(mosquitto_connect(echo->client, options->host, options->port, KEEP_ALIVE_S), "connect");
	while (!echo->subscribed)
		turn(echo);
}

static void close_echo(struct echo *echo)
{
	while (mosquitto_want_write(echo->client))
		turn(echo);
	mosquitto_disconnect(echo->client);
	mosquitto_destroy(echo->client);
	mosquitto_lib_cleanup();
}

static void run_pong(const struct options *options)
{
	struct echo echo = {0};

	open_echo(&echo, options, true);
	puts("ready");
	fflush(stdout);
	while (!echo.ended)
		turn(&echo);
	close_echo(&echo);
}

static int ascending(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;

	return (a > b) - (a < b);
}

/* Linear between the nearest ranks, as numpy's default. */
static double quantile(const double *sorted, int count, double share)
{
	double rank = share * (count - 1);
	int below = (int)floor(rank), above = below + 1 < count ? below + 1 : below;

	return sorted[below] + (rank - below) * (sorted[above] - sorted[below]);
}

static void print_report(const struct options *options, double *half_us)
{
	int count = options->messages, major, minor, patch;

	mosquitto_lib_version(&major, &minor, &patch);
	printf("{\"pattern\": \"echo_half_round_trip\", \"name\": \"libmosquitto\", "
	       "\"version\": \"%d.%d.%d\", \"qos\": %d, \"bytes\": %d, \"messages\": %d, ",
	       major, minor, patch, options->qos, options->bytes, count);
	if (options->samples) {
		printf("\"samples_us\": [");
		for (int i = 0; i < count; i++)
			printf("%s%.1f", i ? ", " : "", half_us[i]);
		printf("], ");
	}
	qsort(half_us, (size_t)count, sizeof *half_us, ascending);
	printf("\"median_us\": %.1f, \"iqr_us\": %.1f, \"p99_us\": %.1f}\n",
	       quantile(half_us, count, 0.5),
	       quantile(half_us, count, 0.75) - quantile(half_us, count, 0.25),
	       quantile(half_us, count, 0.99));
}

static void run_ping(const struct options *options)
{
	struct echo echo = {0};
	int total = options->warmup + options->messages;
	double *half_us = malloc((size_t)options->messages * sizeof *half_us);
	unsigned char *payload = malloc((size_t)options->bytes);

	if (!half_us || !payload)
		fail("memory", strerror(errno));
	/* Nothing on the way may profit from zeros. */
	for (int i = 0; i < options->bytes; i++)
		payload[i] = (unsigned char)((uint32_t)i * 2654435761u >> 24);
	open_echo(&echo, options, false);
	while (echo.sent < total) {
		double start = now_us();
		int sample = echo.sent++ - options->warmup;

		memcpy(payload, &echo.sent, sizeof echo.sent);
		send_message(&echo, payload, options->bytes);
		while (echo.received < echo.sent)
			turn(&echo);
		if (sample >= 0)
			half_us[sample] = (now_us() - start) / 2;
	}
	send_message(&echo, "", 0);
	close_echo(&echo);
	print_report(options, half_us);
	free(payload);
	free(half_us);
}

static int number(const char *text, const char *name, int least, int most)
{
	char *end;
	long value = strtol(text, &end, 10);

	if (*end || end == text || value < least || value > most) {
		fprintf(stderr, "hop: --%s %s: expected a number from %d to %d\n", name, text, least, most);
		exit(2);
	}
	return (int)value;
}

static void usage(void)
{
	fputs("usage: hop (ping|pong) [--host 127.0.0.1] [--port 1883] [--tag hop] [--qos 0]\n"
	      "           [--bytes 1024] [--messages 2000] [--warmup 200] [--samples]\n",
	      stderr);
	exit(2);
}

static struct options parse(int argc, char **argv)
{
	static const struct option known[] = {
		{"host", required_argument, 0, 'h'},	 {"port", required_argument, 0, 'p'},
		{"tag", required_argument, 0, 't'},	 {"qos", required_argument, 0, 'q'},
		{"bytes", required_argument, 0, 'b'},	 {"messages", required_argument, 0, 'n'},
		{"warmup", required_argument, 0, 'w'},	 {"samples", no_argument, 0, 's'},
		{0, 0, 0, 0},
	};
	struct options options = {.host = "127.0.0.1", .tag = "hop", .port = 1883, .bytes = 1024,
				  .messages = 2000, .warmup = 200};
	int option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (option) {
		case 'h': options.host = optarg; break;
		case 't': options.tag = optarg; break;
		case 'p': options.port = number(optarg, "port", 1, 65535); break;
		case 'q': options.qos = number(optarg, "qos", 0, 1); break;
		case 'b': options.bytes = number(optarg, "bytes", (int)sizeof(int32_t), 256 * 1024 * 1024 - 1024); break;
		case 'n': options.messages = number(optarg, "messages", 1, 10000000); break;
		case 'w': options.warmup = number(optarg, "warmup", 0, 1000000); break;
		case 's': options.samples = true; break;
		default: usage();
		}
	}
	if (optind + 1 != argc)
		usage();
	return options;
}

int main(int argc, char **argv)
{
	struct options options = parse(argc, argv);
	const char *role = argv[argc - 1];

	end_with_parent();
	if (strcmp(role, "ping") == 0)
		run_ping(&options);
	else if (strcmp(role, "pong") == 0)
		run_pong(&options);
	else
		usage();
	return 0;
}
