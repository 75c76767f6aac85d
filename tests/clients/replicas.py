"""A pooled SQLAlchemy against a resource whose replicas serve reads: results are right, wherever they come from.

Prints one line for each check.
"""

import os
import threading
import time

import sqlalchemy
from sqlalchemy import text

HOST, PORT = os.environ["DOORWARD_HOST"], int(os.environ["DOORWARD_PORT"])
TOKEN = os.environ["DOORWARD_TOKEN"]
PRIMARY = int(os.environ["PRIMARY_PORT"])
REPLICAS = {int(port) for port in os.environ["REPLICA_PORTS"].split(",")}
THREADS, ROUNDS = 4, 10
# A busy machine takes its time.
PATIENCE = 120

URL = sqlalchemy.URL.create("postgresql+psycopg", "any", TOKEN, HOST, PORT, "shop")
# Fewer connections than threads: each goes from hand to hand.
ENGINE = sqlalchemy.create_engine(URL, pool_size=2, max_overflow=0, pool_timeout=PATIENCE)
AUTOCOMMIT = ENGINE.execution_options(isolation_level="AUTOCOMMIT")
INSERT = text("insert into orders (customer) values (:whose) returning inet_server_port()")
COUNT = text("select count(*), inet_server_port() from orders where customer = :whose")


def in_threads(work):
    failures = []

    def run(number):
        try:
            work(f"{work.__name__} {number}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE * 2)
        assert not thread.is_alive(), "a thread does not end"
    if failures:
        raise failures[0]


def statements_of_their_own():
    """Who writes sees it at once on the same connection; changes are the primary's."""

    def work(whose):
        for n in range(1, ROUNDS + 1):
            with AUTOCOMMIT.connect() as c:
                before = c.execute(COUNT, {"whose": whose}).one()[0]
                assert before <= n - 1, (before, n)
                assert c.execute(INSERT, {"whose": whose}).scalar() == PRIMARY
                after, port = c.execute(COUNT, {"whose": whose}).one()
                assert after == n, (after, n, port)

    in_threads(work)


def transactions():
    """What begins as any other transaction is the primary's, reads and all."""

    def work(whose):
        for n in range(1, ROUNDS + 1):
            with ENGINE.begin() as c:
                assert c.execute(COUNT, {"whose": whose}).one() == (ROUNDS + n - 1, PRIMARY)
                assert c.execute(INSERT, {"whose": whose}).scalar() == PRIMARY
                assert c.execute(COUNT, {"whose": whose}).one() == (ROUNDS + n, PRIMARY)

    in_threads(work)


def all_replicas_read():
    """All replicas take part, and show all in the end."""
    seen, until = set(), time.monotonic() + PATIENCE
    while not REPLICAS <= seen:
        assert time.monotonic() < until, seen
        with AUTOCOMMIT.connect() as c:
            for whose in [f"work {number}" for number in range(THREADS)]:
                count, port = c.execute(COUNT, {"whose": whose}).one()
                assert port == PRIMARY or port in REPLICAS, port
                if count == 2 * ROUNDS:
                    seen.add(port)


CHECKS = [statements_of_their_own, transactions, all_replicas_read]

if __name__ == "__main__":
    for check in CHECKS:
        check()
        print("ok", check.__name__, flush=True)
    ENGINE.dispose()
