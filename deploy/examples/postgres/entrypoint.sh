#!/bin/sh
# Runs PostgreSQL on $PGDATA, which is made on the first start: beside its final
# place, then renamed, so that an interrupted start leaves nothing half made.
# Needs POSTGRES_PASSWORD on the first start.
set -eu

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  new=$PGDATA.new
  rm -rf "$new" "$PGDATA"
  umask 077
  printf '%s\n' "${POSTGRES_PASSWORD:?is needed to make the database}" >/tmp/password
  initdb --pgdata "$new" --data-checksums --encoding UTF8 --auth-local trust --auth-host scram-sha-256 --pwfile /tmp/password
  rm /tmp/password
  echo "host all all all scram-sha-256" >>"$new/pg_hba.conf"
  sync -f "$new"
  mv "$new" "$PGDATA"
  sync -f "$PGDATA/.."
fi

exec postgres -D "$PGDATA" -c listen_addresses='*' -c jit=off "$@"
