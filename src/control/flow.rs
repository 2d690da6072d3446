//! Bytes over the control socket, after a request line to the node or an answer line from it.
//!
//! They go in frames, `length u32 le | bytes`, and end with an empty one, behind which is the
//! answer line that says how all of it went. So a failure in the middle is told, and an end that
//! nobody told is one.
//!
//! Invariant: a frame has at most [`FRAME_BYTES_MAX`] bytes, and nothing is reserved for what did
//! not come. The node's side runs on its runtime, that of commands blocks.

use std::io::{self, Read, Write};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::failure::{Answer, Failure};

/// Bytes of one frame, at most.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Bytes that come one after the other.
#[async_trait]
pub trait Flow: Send {
    /// The next ones, at least one; none at the end.
    ///
    /// # Errors
    /// When they stop before the end.
    async fn next(&mut self) -> Answer<Option<Bytes>>;
}

fn length(len: [u8; 4]) -> io::Result<usize> {
    let len = usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX);
    if len > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("{len} bytes in one frame")));
    }
    Ok(len)
}

fn prefix(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

/// What a command sends, as the node reads it.
pub(super) struct Coming<R> {
    from: R,
    is_at_end: bool,
}

impl<R: AsyncRead + Unpin + Send> Coming<R> {
    pub(super) fn new(from: R) -> Self {
        let is_at_end = false;
        Self { from, is_at_end }
    }

    /// Whether all came that was sent, so that another request can follow.
    pub(super) fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    async fn frame(&mut self) -> io::Result<Option<Bytes>> {
        if self.is_at_end {
            return Ok(None);
        }
        let mut len = [0; 4];
        self.from.read_exact(&mut len).await?;
        let len = length(len)?;
        if len == 0 {
            self.is_at_end = true;
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        self.from.read_exact(&mut bytes).await?;
        Ok(Some(bytes.into()))
    }
}

#[async_trait]
impl<R: AsyncRead + Unpin + Send> Flow for Coming<R> {
    async fn next(&mut self) -> Answer<Option<Bytes>> {
        let frame = self.frame().await;
        frame.map_err(|e| Failure::failed(format!("the bytes stopped before their end: {e}")))
    }
}

/// Sends frames to a command, the empty one last; how the flow ended.
pub(super) async fn send(
    flow: &mut dyn Flow,
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<Answer<()>> {
    let ended = loop {
        match flow.next().await {
            Ok(Some(bytes)) => {
                for part in bytes.chunks(FRAME_BYTES_MAX) {
                    to.write_all(&prefix(part)).await?;
                    to.write_all(part).await?;
                }
            }
            Ok(None) => break Ok(()),
            Err(failure) => break Err(failure),
        }
    };
    to.write_all(&prefix(&[])).await?;
    Ok(ended)
}

/// Why bytes did not go all the way.
#[derive(Debug)]
pub(super) enum Broken {
    /// The file that they come from or go to.
    File(io::Error),
    /// The socket.
    Socket(io::Error),
}

/// Sends all that a file has to the node.
pub(super) fn pour(from: &mut dyn Read, to: &mut impl Write) -> Result<(), Broken> {
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Broken::File(e)),
        };
        let part = buffer.get(..n).unwrap_or_default();
        let sent = to
            .write_all(&prefix(part))
            .and_then(|()| to.write_all(part));
        sent.map_err(Broken::Socket)?;
        if n == 0 {
            return Ok(());
        }
    }
}

/// Writes what the node sends to a file, up to the empty frame.
pub(super) fn drain(from: &mut impl Read, to: &mut dyn Write) -> Result<(), Broken> {
    let mut buffer = Vec::new();
    loop {
        let mut len = [0; 4];
        from.read_exact(&mut len).map_err(Broken::Socket)?;
        let len = length(len).map_err(Broken::Socket)?;
        if len == 0 {
            return Ok(());
        }
        buffer.resize(len, 0);
        from.read_exact(&mut buffer).map_err(Broken::Socket)?;
        to.write_all(&buffer).map_err(Broken::File)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pieces(Vec<Answer<Bytes>>);

    #[async_trait]
    impl Flow for Pieces {
        async fn next(&mut self) -> Answer<Option<Bytes>> {
            self.0.pop().transpose()
        }
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_how_they_ended_is_told() {
        let mut bytes = vec![0; FRAME_BYTES_MAX * 2 + 7];
        getrandom::fill(&mut bytes).unwrap();
        let mut sent = Vec::new();
        pour(&mut &bytes[..], &mut sent).unwrap();
        sent.extend_from_slice(b"behind");
        let mut coming = Coming::new(&sent[..]);
        let mut came = Vec::new();
        while let Some(b) = coming.next().await.unwrap() {
            came.extend_from_slice(&b);
        }
        assert!(came == bytes && coming.is_at_end());
        assert_eq!(coming.next().await, Ok(None));
        assert_eq!(coming.from, b"behind");

        let failure = Failure::failed("no more");
        let mut flow = Pieces(vec![
            Err(failure.clone()),
            Ok(Bytes::from(bytes.clone())),
            Ok(Bytes::from_static(b"x")),
        ]);
        let mut sent = Vec::new();
        let ended = send(&mut flow, &mut sent).await.unwrap();
        assert_eq!(ended, Err(failure));
        let mut came = Vec::new();
        drain(&mut &sent[..], &mut came).unwrap();
        assert!(came[1..] == bytes[..] && came[0] == b'x');
    }

    #[tokio::test]
    async fn what_is_cut_off_or_too_long_is_an_error() {
        let mut sent = Vec::new();
        pour(&mut &b"some bytes"[..], &mut sent).unwrap();
        for n in 0..sent.len() {
            let mut coming = Coming::new(&sent[..n]);
            let mut last = coming.next().await;
            while let Ok(Some(_)) = last {
                last = coming.next().await;
            }
            assert!(last.is_err() && !coming.is_at_end(), "{n}");
            assert!(drain(&mut &sent[..n], &mut io::sink()).is_err());
        }
        let long = u32::MAX.to_le_bytes();
        assert!(Coming::new(&long[..]).next().await.is_err());
        let drained = drain(&mut &long[..], &mut io::sink());
        assert!(matches!(drained, Err(Broken::Socket(_))));
    }
}
