"""psycopg 3, asyncpg, pg8000 and SQLAlchemy through the Postgres door. Prints one line for each check."""

import asyncio
import decimal
import os
import threading

import asyncpg
import pg8000.dbapi
import psycopg
import sqlalchemy

HOST, PORT = os.environ["DOORWARD_HOST"], int(os.environ["DOORWARD_PORT"])
TOKEN = os.environ["DOORWARD_TOKEN"]
# A busy machine takes its time.
PATIENCE = 90


def connect(**more):
    return psycopg.connect(host=HOST, port=PORT, user="any", dbname="shop", password=TOKEN, **more)


def parameters():
    with connect() as c:
        assert c.execute("select count(*) from orders where id < %s", (5,)).fetchone()[0] == 4
        # From the fifth time on it is a prepared statement.
        for n in range(1, 9):
            row = c.execute("select customer, total from orders where id = %s", (n,)).fetchone()
            assert row == (f"customer {n}", n), row


def binary():
    with connect() as c, c.cursor(binary=True) as cursor:
        row = cursor.execute("select %b::bytea, %b::float8, array[1, null, 3]", (b"\0\xff", 0.5)).fetchone()
        assert row == (b"\0\xff", 0.5, [1, None, 3]), row


def pipeline():
    with connect() as c:
        with c.pipeline():
            all = [c.execute("select %s::int + id from orders where id = 1", (n,)) for n in range(50)]
        assert [one.fetchone()[0] for one in all] == list(range(1, 51))


def refusal_in_a_pipeline():
    with connect() as c:
        try:
            with c.pipeline():
                c.execute("insert into orders (customer) values ('piped')")
                c.execute("select * from secrets")
                c.execute("select 1")
            raise AssertionError("not refused")
        except psycopg.errors.InsufficientPrivilege as e:
            assert "no-secrets" in e.diag.message_detail and e.diag.message_hint
        c.rollback()
        assert c.execute("select count(*) from orders where customer = 'piped'").fetchone()[0] == 0


def copy():
    with connect() as c:
        with c.cursor().copy("copy orders (customer, total) from stdin") as data:
            for n in range(1000):
                data.write_row((f"copied {n}", n))
        assert c.execute("select sum(total) from orders where customer like 'copied%'").fetchone()[0] == 499500
        with c.cursor().copy("copy (select customer from orders where customer like 'copied%') to stdout") as data:
            assert sum(1 for _ in data.rows()) == 1000
        with c.cursor().copy("copy (select n from big) to stdout (format binary)") as data:
            data.set_types(["int4"])
            assert sum(row[0] for row in data.rows()) == 3000 * 3001 // 2
        c.rollback()


def copy_given_up():
    with connect() as c:
        try:
            with c.cursor().copy("copy orders (customer) from stdin") as data:
                data.write_row(("half",))
                raise KeyError("the client changes its mind")
        except KeyError:
            pass
        c.rollback()
        assert c.execute("select count(*) from orders where customer = 'half'").fetchone()[0] == 0


def server_cursor():
    with connect() as c:
        with c.cursor(name="of_the_server") as cursor:
            cursor.itersize = 7
            cursor.execute("select id from orders order by id")
            assert sum(1 for _ in cursor) >= 20
        with c.cursor(name="held", withhold=True, scrollable=True) as cursor:
            cursor.execute("select n from big order by n")
            c.commit()
            cursor.scroll(2000)
            assert cursor.fetchone()[0] == 2001


def savepoints():
    with connect() as c, c.transaction():
        try:
            with c.transaction():
                c.execute("select * from secrets")
        except psycopg.errors.InsufficientPrivilege:
            pass
        assert c.execute("select count(*) from orders").fetchone()[0] >= 20


def large_value():
    with connect() as c:
        assert c.execute("select length(%s::text)", ("z" * 3_000_000,)).fetchone()[0] == 3_000_000


def notifications():
    with connect(autocommit=True) as hears, connect(autocommit=True) as calls:
        hears.execute("listen news")
        calls.execute("notify news, 'from psycopg'")
        note = next(hears.notifies(timeout=PATIENCE, stop_after=1))
        assert note.channel == "news" and note.payload == "from psycopg"


def cancel():
    with connect(autocommit=True) as c:
        threading.Timer(0.3, c.cancel).start()
        try:
            c.execute("select count(*) from big a, big b, big c")
            raise AssertionError("not cancelled")
        except psycopg.errors.QueryCanceled:
            pass
        assert c.execute("select 1").fetchone()[0] == 1


async def asyncpg_connection():
    return await asyncpg.connect(host=HOST, port=PORT, user="any", database="shop", password=TOKEN, ssl=False)


async def with_asyncpg():
    c = await asyncpg_connection()
    async with c.transaction():
        assert len([row async for row in c.cursor("select id from orders where id <= $1", 20)]) == 20
    try:
        await c.fetch("select * from secrets")
        raise AssertionError("not refused")
    except asyncpg.InsufficientPrivilegeError:
        pass
    statement = await c.prepare("select customer, total from orders where id = $1")
    assert tuple(await statement.fetchrow(3)) == ("customer 3", 3)
    assert [attribute.name for attribute in statement.get_attributes()] == ["customer", "total"]
    # Types that it does not know it looks up in the catalogue by itself.
    assert await c.fetchval("select 'glad'::mood") == "glad"
    assert await c.fetchval("select row(1, 'a', 2.5)::orders") == (1, "a", decimal.Decimal("2.5"))
    await c.reset()
    await c.close()


async def asyncpg_copies_and_hears():
    c, other = await asyncpg_connection(), await asyncpg_connection()
    rows = [(f"asyncpg {n}",) for n in range(500)]
    assert await c.copy_records_to_table("orders", records=rows, columns=["customer"]) == "COPY 500"
    await c.executemany("update orders set customer = $2 where customer = $1", [(row[0], "x" + row[0]) for row in rows[:50]])
    assert await c.execute("delete from orders where customer like '%asyncpg %'") == "DELETE 500"
    heard = asyncio.get_running_loop().create_future()
    await c.add_listener("news", lambda *note: heard.done() or heard.set_result(note[3]))
    await other.execute("notify news, 'from asyncpg'")
    assert await asyncio.wait_for(heard, PATIENCE) == "from asyncpg"
    try:
        await other.fetchval("select count(*) from big a, big b, big c", timeout=1)
        raise AssertionError("not cancelled")
    except TimeoutError:
        pass
    assert await other.fetchval("select 1") == 1
    await c.close()
    await other.close()


def with_pg8000():
    c = pg8000.dbapi.connect(user="any", host=HOST, port=PORT, database="shop", password=TOKEN)
    cursor = c.cursor()
    cursor.execute("select count(*) from orders where id < %s", (5,))
    assert cursor.fetchone()[0] == 4
    cursor.execute("insert into orders (customer) values (%s) returning customer", ("from pg8000",))
    assert cursor.fetchone()[0] == "from pg8000"
    c.rollback()
    try:
        cursor.execute("select * from secrets")
        raise AssertionError("not refused")
    except pg8000.dbapi.DatabaseError as e:
        assert e.args[0]["C"] == "42501"
    c.close()


def with_sqlalchemy():
    url = sqlalchemy.URL.create("postgresql+psycopg", "any", TOKEN, HOST, PORT, "shop")
    engine = sqlalchemy.create_engine(url, pool_size=2, pool_pre_ping=True)
    tables = sqlalchemy.MetaData()
    tables.reflect(engine, views=True, only=["orders", "big", "orders_seen"])
    orders = tables.tables["orders"]
    assert [column.name for column in orders.primary_key] == ["id"]
    with engine.begin() as c:
        c.execute(orders.insert(), [{"customer": f"alchemist {n}"} for n in range(10)])
        mine = orders.c.customer.like("alchemist%")
        assert c.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(orders).where(mine)).scalar() == 10
        assert c.execute(orders.delete().where(mine).returning(orders.c.id)).rowcount in (10, -1)
    inspector = sqlalchemy.inspect(engine)
    assert "orders" in inspector.get_table_names() and "orders_seen" in inspector.get_view_names()
    assert inspector.get_pk_constraint("orders")["constrained_columns"] == ["id"]
    engine.dispose()


def with_sqlalchemy_streams():
    url = sqlalchemy.URL.create("postgresql+psycopg", "any", TOKEN, HOST, PORT, "shop")
    engine = sqlalchemy.create_engine(url, execution_options={"isolation_level": "REPEATABLE READ"})
    with engine.connect().execution_options(stream_results=True, max_row_buffer=100) as c:
        assert sum(1 for _ in c.execute(sqlalchemy.text("select n from big"))) == 3000
    engine.dispose()


CHECKS = [
    parameters,
    binary,
    pipeline,
    refusal_in_a_pipeline,
    copy,
    copy_given_up,
    server_cursor,
    savepoints,
    large_value,
    notifications,
    cancel,
    with_pg8000,
    with_sqlalchemy,
    with_sqlalchemy_streams,
]
for check in CHECKS:
    check()
    print("ok", check.__name__)
for check in [with_asyncpg, asyncpg_copies_and_hears]:
    asyncio.run(check())
    print("ok", check.__name__)
