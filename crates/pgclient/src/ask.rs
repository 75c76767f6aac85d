//! One question of the gateway's own on a relayed connection, while nothing else is under way on it.
//!
//! Invariants: values travel as parameters, never in the statement's text, which other sessions of the role can
//! read in `pg_stat_activity`; an answer has a bound; a connection that fails here is not used any more.

use bytes::{Buf, BytesMut};
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::Failure;
use crate::frames::{self, FRAME_MAX, HEADER, Malformed};
use crate::stream::Stream;

/// The OID of `text`.
const TEXT: u32 = 25;

/// Asks one statement that takes texts; answers the first value of the first row.
pub(crate) async fn ask(
    stream: &mut Stream,
    input: &mut BytesMut,
    sql: &str,
    params: &[&str],
) -> Result<Option<String>, Failure> {
    let mut output = BytesMut::new();
    encode(sql, params, &mut output)?;
    stream.write_all(&output).await?;
    stream.flush().await?;
    let (mut value, mut error) = (None, None);
    loop {
        let (tag, body) = frame(stream, input).await?;
        match tag {
            b'D' if value.is_none() => {
                frames::check_row(&body)?;
                value = frames::cells(&body).next().flatten().map(<[u8]>::to_vec);
            }
            b'E' => error = Some(frames::server_error(&body)?),
            b'Z' => break,
            _ => {}
        }
    }
    match error {
        Some(error) if error.is_fatal() => Err(Failure::Fatal(Box::new(error))),
        Some(error) => Err(Failure::Server(Box::new(error))),
        None => {
            let text = value.map(String::from_utf8).transpose();
            Ok(text.map_err(|_| Malformed("a text that is not UTF-8"))?)
        }
    }
}

fn encode(sql: &str, params: &[&str], out: &mut BytesMut) -> Result<(), Failure> {
    frontend::parse("", sql, params.iter().map(|_| TEXT), out)?;
    let bound = frontend::bind(
        "",
        "",
        [],
        params,
        |param, out| {
            out.extend_from_slice(param.as_bytes());
            Ok(IsNull::No)
        },
        [],
        out,
    );
    bound.map_err(|_| Failure::Unsendable("a value"))?;
    frontend::execute("", 0, out)?;
    frontend::sync(out);
    Ok(())
}

async fn frame(stream: &mut Stream, input: &mut BytesMut) -> Result<(u8, BytesMut), Failure> {
    loop {
        if let Some(head) = frames::head(input)? {
            if head.body > FRAME_MAX {
                return Err(Malformed("a frame that is too large").into());
            }
            if input.len() >= HEADER + head.body {
                input.advance(HEADER);
                return Ok((head.tag, input.split_to(head.body)));
            }
        }
        if stream.read_buf(input).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    }
}
