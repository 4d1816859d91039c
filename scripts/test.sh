#!/usr/bin/env bash
# Runs every part of the tests, each even if an earlier one failed, with the time each took. Ends with a table, and with
# 1 if a part failed. Parts can be named on the command line: `scripts/test.sh unit kafka`.
set -uo pipefail
cd "$(dirname "$0")/.."

# The part of a test binary goes by its name: "kafka*" need a broker, "systems*" whatever a whole system needs beside it
# (PostgreSQL, Redis, Airflow, a browser); they start it themselves. All others ("plain") need nothing.
targets() { # package folder, part: kafka, systems or plain
    local file name
    for file in "$1"/tests/*.rs "$1"/tests/*/main.rs; do
        [ -e "$file" ] || continue
        name=${file#"$1"/tests/} name=${name%/main.rs} name=${name%.rs}
        case "$2:$name" in
        kafka:kafka* | systems:systems*) echo "--test=$name" ;;
        kafka:* | systems:* | plain:kafka* | plain:systems*) ;;
        *) echo "--test=$name" ;;
        esac
    done
}

# Always the same packages, so that every part is built with the same features: one alone would compile most dependencies
# once more. The bare programs of `make bench` have no tests; lint compiles them.
run() { cargo test --locked --workspace --exclude bulkhead-limits --no-fail-fast "$@"; }

part_setup() { scripts/setup.sh; }
part_format() { cargo fmt --all --check; }
part_lint() { cargo clippy --locked --workspace --all-targets -- -D warnings; }
part_build() { run --no-run; }
part_unit() { run --lib --bins $(targets core plain); }
part_actors() { run $(targets actors plain); }
part_black_box() { run $(targets . plain); }
part_kafka() { run $(targets tests/support plain) $(targets actors kafka) $(targets . kafka); }
part_systems() { run $(targets . systems); }

scripts/claim-target.sh

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(setup format lint build unit actors black_box kafka systems)
table="" failed=0 began=$SECONDS
for part in "${parts[@]}"; do
    echo "=== $part"
    start=$SECONDS
    if "part_$part"; then result=ok; else result=FAILED failed=1; fi
    echo "=== $part: $result, $((SECONDS - start)) s"
    table+=$(printf '%-12s %-8s %6s s' "$part" "$result" "$((SECONDS - start))")$'\n'
done
printf '\n%s%-12s %-8s %6s s\n' "$table" total "$([ $failed = 0 ] && echo ok || echo FAILED)" "$((SECONDS - began))"
exit $failed
