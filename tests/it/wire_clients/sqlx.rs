//! sqlx through the Postgres door: its cache of statements, its pool, its look-ups of types.

use anyhow::{Context, Result, ensure};
use doorward_testkit::postgres::Cluster;
use futures_util::TryStreamExt;
use sqlx_core::acquire::Acquire;
use sqlx_core::connection::Connection;
use sqlx_core::decode::Decode;
use sqlx_core::encode::{Encode, IsNull};
use sqlx_core::error::BoxDynError;
use sqlx_core::query::query;
use sqlx_core::query_scalar::query_scalar;
use sqlx_core::raw_sql::raw_sql;
use sqlx_core::row::Row;
use sqlx_core::types::Type;
use sqlx_postgres::types::PgRecordDecoder;
use sqlx_postgres::{
    PgArgumentBuffer, PgConnectOptions, PgDatabaseError, PgHasArrayType, PgListener, PgPool, PgPoolCopyExt,
    PgPoolOptions, PgSslMode, PgTypeInfo, PgValueRef, Postgres,
};

use super::{Siege, block_on, shops};
use crate::bed::SOON;

/// Connections of the program's pool.
const POOL_SIZE: u32 = 4;
/// Statements that a connection keeps: fewer than the test uses, so that some are closed and prepared again.
const CACHED_STATEMENTS: usize = 6;

/// An enum of the database, which sqlx looks up by its name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Sad,
    Glad,
}

impl Type<Postgres> for Mood {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("mood")
    }
}

impl PgHasArrayType for Mood {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::array_of("mood")
    }
}

impl Encode<'_, Postgres> for Mood {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let label = match self {
            Self::Sad => "sad",
            Self::Glad => "glad",
        };
        <&str as Encode<'_, Postgres>>::encode(label, buffer)
    }
}

impl Decode<'_, Postgres> for Mood {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        match value.as_str()? {
            "sad" => Ok(Self::Sad),
            "glad" => Ok(Self::Glad),
            other => Err(format!("no mood: {other}").into()),
        }
    }
}

/// A composite of the database.
#[derive(Debug, PartialEq)]
struct Parcel {
    weight: i32,
    mood: Mood,
}

impl Type<Postgres> for Parcel {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("parcel")
    }
}

impl Decode<'_, Postgres> for Parcel {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let mut fields = PgRecordDecoder::new(value)?;
        Ok(Self { weight: fields.try_decode()?, mood: fields.try_decode()? })
    }
}

fn options(shop: &Siege) -> Result<PgConnectOptions> {
    let address = shop.gateway.address("postgres")?;
    let options = PgConnectOptions::new_without_pgpass().host(&address.ip().to_string()).port(address.port());
    let options = options.username("any").database("shop").password(&shop.token("people")?);
    let options = options.application_name("sqlx").statement_cache_capacity(CACHED_STATEMENTS);
    Ok(options.ssl_mode(PgSslMode::Disable))
}

async fn rust(shop: &Siege) -> Result<()> {
    let pool =
        PgPoolOptions::new().max_connections(POOL_SIZE).acquire_timeout(SOON).test_before_acquire(true);
    let pool = pool.connect_with(options(shop)?).await?;
    parameters(&pool).await?;
    statements(&pool).await?;
    crowd(&pool).await?;
    types(&pool).await?;
    transactions(&pool).await?;
    streams(&pool).await?;
    copies(&pool).await?;
    notifications(&pool).await?;
    refusals(&pool).await?;
    pool.close().await;
    Ok(())
}

/// sqlx sends and reads all values in binary.
async fn parameters(pool: &PgPool) -> Result<()> {
    let sql = "select $1::int8 + 1, $2::text, $3::bytea, $4::float8, $5::bool, $6::int4[], $7::text";
    let blob = vec![0_u8, 255, 7];
    let row = query::<Postgres>(sql)
        .bind(i64::MAX - 1)
        .bind("snow ☃")
        .bind(&blob)
        .bind(0.5_f64)
        .bind(true)
        .bind(vec![Some(1_i32), None, Some(3)])
        .bind(None::<String>)
        .fetch_one(pool)
        .await?;
    ensure!(row.try_get::<i64, _>(0)? == i64::MAX && row.try_get::<String, _>(1)? == "snow ☃");
    ensure!(row.try_get::<Vec<u8>, _>(2)? == blob && row.try_get::<f64, _>(3)? == 0.5);
    ensure!(row.try_get::<bool, _>(4)? && row.try_get::<Option<String>, _>(6)?.is_none());
    ensure!(row.try_get::<Vec<Option<i32>>, _>(5)? == [Some(1), None, Some(3)]);

    let large = vec![7_u8; 3 << 20];
    let length: i32 = query_scalar("select length($1::bytea)").bind(large).fetch_one(pool).await?;
    ensure!(length == 3 << 20, "{length}");
    let ids = vec![3, 5, 7];
    let rows = query::<Postgres>("select id, customer from orders where id = any($1) order by id").bind(ids);
    let rows = rows.fetch_all(pool).await?;
    ensure!(rows.len() == 3 && rows[2].try_get::<String, _>("customer")? == "customer 7");
    Ok(())
}

/// Named statements: used again, closed by the cache when there are too many, forgotten, and of one use.
async fn statements(pool: &PgPool) -> Result<()> {
    const TEXTS: [&str; 9] = [
        "select $1::int4 + 0",
        "select $1::int4 + 1",
        "select $1::int4 + 2",
        "select $1::int4 + 3",
        "select $1::int4 + 4",
        "select $1::int4 + 5",
        "select $1::int4 + 6",
        "select $1::int4 + 7",
        "select $1::int4 + 8",
    ];
    let mut connection = pool.acquire().await?;
    for round in 0..4 {
        for (more, text) in (0..).zip(TEXTS) {
            let sum: i32 = query_scalar(text).bind(round).fetch_one(&mut *connection).await?;
            ensure!(sum == round + more, "{text}: {sum}");
        }
        // The newest one again: it is still there.
        let sum: i32 = query_scalar(TEXTS[8]).bind(round).fetch_one(&mut *connection).await?;
        ensure!(sum == round + 8);
    }
    ensure!(connection.cached_statements_size() == CACHED_STATEMENTS);
    connection.clear_cached_statements().await?;
    let sum: i32 = query_scalar(TEXTS[8]).bind(1).fetch_one(&mut *connection).await?;
    ensure!(sum == 9 && connection.cached_statements_size() == 1);
    let once = query_scalar("select 41 + $1::int4").persistent(false);
    let sum: i32 = once.bind(1).fetch_one(&mut *connection).await?;
    ensure!(sum == 42 && connection.cached_statements_size() == 1);
    connection.ping().await?;
    Ok(())
}

/// More tasks than connections, each of which asks whether it lives before it is used again.
async fn crowd(pool: &PgPool) -> Result<()> {
    let all = (1..=40).map(|n: i32| async move {
        let sql = "select customer from orders where id = $1 and add_one(id) = $1 + 1";
        query_scalar::<Postgres, String>(sql).bind(n % 20 + 1).fetch_one(pool).await
    });
    let all = futures_util::future::try_join_all(all).await?;
    ensure!(all.len() == 40 && all[0] == "customer 2", "{all:?}");
    ensure!(pool.size() <= POOL_SIZE);
    Ok(())
}

/// Types that sqlx does not know are looked up in the catalogue, by name and by number.
async fn types(pool: &PgPool) -> Result<()> {
    let row = query::<Postgres>("select $1, $2, row(70, 'sad')::parcel, 'glad'::mood")
        .bind(Mood::Glad)
        .bind(vec![Mood::Sad, Mood::Glad])
        .fetch_one(pool)
        .await?;
    ensure!(row.try_get::<Mood, _>(0)? == Mood::Glad && row.try_get::<Mood, _>(3)? == Mood::Glad);
    ensure!(row.try_get::<Vec<Mood>, _>(1)? == [Mood::Sad, Mood::Glad]);
    ensure!(row.try_get::<Parcel, _>(2)? == Parcel { weight: 70, mood: Mood::Sad });
    Ok(())
}

/// A transaction in a transaction is a savepoint; one that is dropped is rolled back.
async fn transactions(pool: &PgPool) -> Result<()> {
    let add = "insert into orders (customer) values ($1)";
    let count = "select count(*) from orders where customer like 'by sqlx%'";
    let mut outer = pool.begin().await?;
    query(add).bind("by sqlx 1").execute(&mut *outer).await?;
    let mut inner = outer.begin().await?;
    query(add).bind("by sqlx 2").execute(&mut *inner).await?;
    let refused = raw_sql("select * from secrets").execute(&mut *inner).await.err().context("not refused")?;
    ensure!(refused.as_database_error().and_then(|error| error.code()).as_deref() == Some("42501"));
    inner.rollback().await?;
    let seen: i64 = query_scalar(count).fetch_one(&mut *outer).await?;
    ensure!(seen == 1, "{seen} rows behind the savepoint");
    let mut inner = outer.begin().await?;
    query(add).bind("by sqlx 3").execute(&mut *inner).await?;
    inner.commit().await?;
    outer.commit().await?;

    let mut dropped = pool.begin().await?;
    query("delete from orders").execute(&mut *dropped).await?;
    drop(dropped);
    let seen: i64 = query_scalar(count).fetch_one(pool).await?;
    ensure!(seen == 2, "{seen} rows are there");
    let gone = query("delete from orders where customer like $1").bind("by sqlx%").execute(pool).await?;
    ensure!(gone.rows_affected() == 2);
    Ok(())
}

/// Rows one by one; and a stream that is dropped after its first rows leaves a connection that serves.
async fn streams(pool: &PgPool) -> Result<()> {
    let mut connection = pool.acquire().await?;
    let mut rows =
        query::<Postgres>("select n, filler from big where n > $1").bind(0).fetch(&mut *connection);
    let mut read = 0;
    while let Some(row) = rows.try_next().await? {
        read += usize::from(row.try_get::<&str, _>(1)?.len() == 200);
    }
    drop(rows);
    ensure!(read == 3_000, "{read} rows");
    let mut rows = query::<Postgres>("select n from big").fetch(&mut *connection);
    rows.try_next().await?.context("a row")?;
    drop(rows);
    let one: i32 = query_scalar("select 1").fetch_one(&mut *connection).await?;
    ensure!(one == 1);
    Ok(())
}

async fn copies(pool: &PgPool) -> Result<()> {
    let mut copy = pool.copy_in_raw("copy orders (customer) from stdin").await?;
    for n in 0..200 {
        copy.send(format!("copied by sqlx {n}\n").into_bytes()).await?;
    }
    ensure!(copy.finish().await? == 200);
    let mut given_up = pool.copy_in_raw("copy orders (customer) from stdin").await?;
    given_up.send(b"copied by sqlx half\n".to_vec()).await?;
    given_up.abort("the program changes its mind").await?;
    let out = "copy (select customer from orders where customer like 'copied by sqlx%') to stdout";
    let copied: Vec<_> = pool.copy_out_raw(out).await?.try_collect().await?;
    ensure!(copied.concat().iter().filter(|byte| **byte == b'\n').count() == 200);
    let refused = pool.copy_in_raw("copy secrets from stdin").await.err().context("not refused")?;
    ensure!(refused.as_database_error().and_then(|error| error.code()).as_deref() == Some("42501"));
    query("delete from orders where customer like 'copied by sqlx%'").execute(pool).await?;
    Ok(())
}

async fn notifications(pool: &PgPool) -> Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen("news").await?;
    query("select pg_notify('news', $1)").bind("from sqlx").execute(pool).await?;
    let note = tokio::time::timeout(SOON, listener.recv()).await.context("no notification")??;
    ensure!(note.channel() == "news" && note.payload() == "from sqlx", "{note:?}");
    listener.unlisten_all().await?;
    Ok(())
}

/// A refusal tells the program the rule and the way out, and the session lives on.
async fn refusals(pool: &PgPool) -> Result<()> {
    let mut connection = pool.acquire().await?;
    for _ in 0..2 {
        let asked = query("select word from secrets where id = $1").bind(1).fetch_all(&mut *connection).await;
        let refused = asked.err().context("not refused")?;
        let refused = refused.as_database_error().with_context(|| format!("not the door's: {refused:?}"))?;
        let refused = refused.downcast_ref::<PgDatabaseError>();
        ensure!(refused.code() == "42501", "{refused:?}");
        ensure!(refused.detail().is_some_and(|detail| detail.contains("no-secrets")), "{refused:?}");
        ensure!(refused.hint().is_some_and(|hint| !hint.is_empty()), "{refused:?}");
    }
    let broken =
        query("select nothing from orders").execute(&mut *connection).await.err().context("no error")?;
    let broken = broken.as_database_error().context("the server's error")?;
    ensure!(broken.downcast_ref::<PgDatabaseError>().code() == "42703", "{broken:?}");
    let lives: i64 = query_scalar("select count(*) from orders").fetch_one(&mut *connection).await?;
    ensure!(lives == 20, "{lives} orders");
    Ok(())
}

#[test]
fn wire_clients_of_rusts_sqlx_on_debians_postgresql() -> Result<()> {
    shops(Cluster::shared()?)?.iter().try_for_each(|shop| block_on(rust(shop))?)
}

#[test]
fn wire_clients_of_rusts_sqlx_on_a_newer_postgresql() -> Result<()> {
    shops(Cluster::shared_newer()?)?.iter().try_for_each(|shop| block_on(rust(shop))?)
}
