#!/bin/sh
# manual.sh PROGRAM FOLDER: the manual pages and completions that the program makes from its own table of commands.
set -eu
program=$1 folder=$2
rm -rf "$folder"
mkdir -p "$folder/man"
for command in '' $("$program" --help | sed -n 's/^  \([a-z]*\)  .*/\1/p'); do
    "$program" help --man $command >"$folder/page"
    gzip -9nc "$folder/page" >"$folder/man/kmsgate${command:+-$command}.8.gz"
done
rm "$folder/page"
for shell in bash zsh; do
    "$program" completion $shell >"$folder/completion.$shell"
done
