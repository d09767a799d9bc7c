#!/bin/bash
# client.sh: loads the example database and remembers, outside of it, every
# commit it was told of. Runs in a pod, away from the database.
#   client.sh pgbench   pgbench until $WORK/stop exists; commits counted in $WORK/history
#   client.sh ledger    one numbered row per transaction; "ID MILLISECONDS" of each acknowledged in $WORK/acknowledged
#   client.sh check     compares both with the database; prints the result, fails when anything is missing,
#                       with 3 when the database does not answer for minutes
set -uo pipefail
WORK=${WORK:-/work}
HOST=${POSTGRES_HOST:-$POSTGRES_SERVICE_HOST}
export PGPASSWORD=${POSTGRES_PASSWORD:?}
# A server that went silent is given up after three seconds.
CONNECTION="host=$HOST user=postgres dbname=postgres connect_timeout=2 tcp_user_timeout=3000 keepalives_idle=1 keepalives_interval=1 keepalives_count=3"

query() { psql -qtAX "$CONNECTION" -v ON_ERROR_STOP=1 -c "$1"; }

# rest keeps the container for questions once its work has ended.
rest() {
  touch "$WORK/$1-ended"
  exec sleep infinity
}

stopped() { [ -e "$WORK/stop" ]; }

wait_for_database() {
  until query 'select 1' >/dev/null 2>&1; do
    stopped && return 1
    sleep 0.2
  done
}

run_pgbench() {
  wait_for_database
  until pgbench -q -i -s "${SCALE:-5}" "$CONNECTION"; do sleep 1; done
  until stopped; do
    wait_for_database
    pgbench -n -c 4 -j 1 -T "${ROUND:-10}" "$CONNECTION" | tee /dev/stderr |
      sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' >>"$WORK/history"
  done
  rest pgbench
}

# open_session starts psql with its input and output as file descriptors.
open_session() {
  coproc SESSION { exec psql -qtAX "$CONNECTION" 2>/dev/null; }
}

close_session() {
  [ -n "${SESSION_PID:-}" ] && kill "$SESSION_PID" && wait "$SESSION_PID"
} 2>/dev/null

# insert ID succeeds when the database has said that the row is committed.
insert() {
  local answer
  echo "insert into ledger (id) values ($1) returning id;" >&"${SESSION[1]}" &&
    read -r -t 10 -u "${SESSION[0]}" answer && [ "$answer" = "$1" ]
} 2>/dev/null

run_ledger() {
  local id=0
  trap '' PIPE
  wait_for_database
  until query 'drop table if exists ledger; create table ledger (id bigint primary key, at timestamptz default now())'; do sleep 1; done
  open_session
  until stopped; do
    id=$((id + 1)) # a number is used once: what was not acknowledged may be there or not
    if insert $id; then
      echo "$id $(date +%s%3N)" >>"$WORK/acknowledged"
    else
      close_session
      wait_for_database
      open_session
    fi
  done
  close_session
  rest ledger
}

# longest_pause prints the longest time between two acknowledged commits, in ms.
longest_pause() { awk 'NR > 1 && $2 - last > max { max = $2 - last } { last = $2 } END { print max + 0 }' "$WORK/acknowledged"; }

# compare sets acknowledged, rows, missing, counted and history; it fails when
# the database cannot be asked.
compare() {
  # It counts, and may wait: only the load measures pauses.
  CONNECTION="host=$HOST user=postgres dbname=postgres connect_timeout=30"
  acknowledged=$(wc -l <"$WORK/acknowledged")
  rows=$(query 'select count(*) from ledger') || return 1
  missing=$({
    echo 'create temporary table seen (id bigint);'
    echo 'copy seen from stdin;'
    cut -d' ' -f1 "$WORK/acknowledged"
    echo '\.'
    echo 'select count(*) from seen where id not in (select id from ledger);'
  } | psql -qtAX "$CONNECTION" -v ON_ERROR_STOP=1) || return 1
  counted=$(awk '{ sum += $1 } END { print sum + 0 }' "$WORK/history")
  history=$(query 'select count(*) from pgbench_history')
}

check() {
  local acknowledged rows missing counted history tries=0
  until compare; do # a database that restarts or moves says nothing of what is in it
    ((++tries < 60)) || { echo "the database does not answer: nothing is known of what it has" && return 3; }
    sleep 2
  done
  echo "ledger:  $acknowledged commits acknowledged to the client, $missing of them missing; $rows rows in the table" \
    "($((rows - acknowledged)) whose answer was cut off)"
  echo "pgbench: $counted commits counted by the client after each round, $history rows in the table"
  echo "longest pause between two commits: $(longest_pause) ms"
  [ "$acknowledged" -gt 0 ] && [ "$missing" = 0 ] && [ "$rows" -ge "$acknowledged" ] && [ "$history" -ge "$counted" ]
}

case ${1:-} in
pgbench | ledger) "run_$1" ;;
check) check ;;
*) sed -n '2,8s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
