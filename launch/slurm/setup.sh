# Sourced before a profile's setup lines: one that fails ends the job, but not a command within a file or function that
# the line uses.
setup_failed() {
  echo "this setup line of the profile ended with code $1: $(sed -n "$2p" "$0")" >&2
  exit 2
}
trap 'code=$?; [ ${#BASH_SOURCE[@]} -gt 1 ] || setup_failed "$code" "$LINENO"' ERR
