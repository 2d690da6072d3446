//! A request's body: as sent or gunzipped, piece by piece, within a bound.

use std::io::{self, Write};

use bytes::{Buf, Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::pkt::{self, First};

/// Gunzipped in steps, so that a small piece cannot become a huge one at once.
const STEP: usize = 4 << 10;

/// The bytes of a request.
pub(super) struct Input {
    body: Incoming,
    gzip: Option<MultiGzDecoder<Vec<u8>>>,
    /// Sent but not yet gunzipped.
    raw: Bytes,
    /// Ready but not yet taken.
    ready: BytesMut,
    left: u64,
    ended: bool,
}

impl Input {
    /// At most `limit` bytes, after gunzipping.
    pub(super) fn new(body: Incoming, gzip: bool, limit: u64) -> Self {
        Self {
            body,
            gzip: gzip.then(|| MultiGzDecoder::new(Vec::new())),
            raw: Bytes::new(),
            ready: BytesMut::new(),
            left: limit,
            ended: false,
        }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.ready.is_empty() {
            self.fill().await?;
        }
        let piece = self.ready.split().freeze();
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// Whether the first pkt-line is `line`, with or without a newline. Takes nothing.
    pub(super) async fn begins_with(&mut self, line: &[u8]) -> io::Result<bool> {
        loop {
            match pkt::first(&self.ready) {
                First::Data(data) => {
                    return Ok(data.strip_suffix(b"\n").unwrap_or(data) == line);
                }
                First::Special => return Ok(false),
                First::Partial if self.ended => return Ok(false),
                First::Partial => self.fill().await?,
            }
        }
    }

    /// Whether all there is is a flush. Takes nothing.
    pub(super) async fn is_flush_alone(&mut self) -> io::Result<bool> {
        while self.ready.len() <= 4 && !self.ended {
            self.fill().await?;
        }
        Ok(self.ready.as_ref() == b"0000")
    }

    /// Adds at least a byte to what is ready, unless the end is reached.
    async fn fill(&mut self) -> io::Result<()> {
        let before = self.ready.len();
        while self.ready.len() == before && !self.ended {
            if self.raw.is_empty() {
                match self.body.frame().await {
                    Some(frame) => {
                        let frame = frame.map_err(io::Error::other)?;
                        self.raw = frame.into_data().unwrap_or_default();
                    }
                    None => {
                        self.ended = true;
                        if let Some(mut gzip) = self.gzip.take() {
                            gzip.try_finish()?;
                            self.ready.extend_from_slice(gzip.get_ref());
                        }
                    }
                }
            }
            self.step()?;
        }
        let got = u64::try_from(self.ready.len() - before).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(got).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "the request is too large")
        })?;
        Ok(())
    }

    fn step(&mut self) -> io::Result<()> {
        let Some(gzip) = &mut self.gzip else {
            self.ready.extend_from_slice(&self.raw);
            self.raw.clear();
            return Ok(());
        };
        let n = self.raw.len().min(STEP);
        let taken = gzip.write(self.raw.get(..n).unwrap_or_default())?;
        if taken == 0 && n > 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "bytes after the end of gzip",
            ));
        }
        self.raw.advance(taken);
        gzip.flush()?;
        self.ready.extend_from_slice(gzip.get_ref());
        gzip.get_mut().clear();
        Ok(())
    }
}
