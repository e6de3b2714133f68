#include <signal.h>

#include "base/secret.h"
#include "cmd/command.h"

int main(int argc, char **argv)
{
    secret_harden_process();
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow any more is a failed write, not the end */
    return command_main(argc, argv);
}
