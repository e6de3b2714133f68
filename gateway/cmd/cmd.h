/*
 * Subcommands: a small file each, no logic of their own. Exit codes: 0 done, 1 a negative answer or an error, 2 wrong
 * usage.
 */
#ifndef KMSGATE_CMD_CMD_H
#define KMSGATE_CMD_CMD_H

enum { EXIT_DONE = 0, EXIT_NEGATIVE = 1, EXIT_USAGE = 2 };

/* argv[0] is the subcommand's name. */
int cmd_serve(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_health(int argc, char **argv);
int cmd_keys(int argc, char **argv);
int cmd_request(int argc, char **argv);
int cmd_open(int argc, char **argv);
int cmd_explain(int argc, char **argv);
int cmd_test(int argc, char **argv);
int cmd_replay(int argc, char **argv);
int cmd_demo(int argc, char **argv);

#endif
