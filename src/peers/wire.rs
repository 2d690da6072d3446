//! Frames: how a value becomes bytes on a stream, and back.
//!
//! Invariant: a frame is a version byte, a length and a postcard body; the length is checked
//! against the caller's limit before anything is allocated; foreign bytes give an error, never
//! a panic.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Version of the frame format and of all bodies in it.
pub(crate) const FRAME_VERSION: u8 = crate::base::format::CELL;
/// Bytes are read in steps of this size, so that a lying length reserves nothing.
const READ_STEP_BYTES: usize = 64 << 10;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the stream ended or failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("frame version {0} is unknown")]
    Version(u8),
    #[error("a frame of {0} bytes is above the limit")]
    TooLong(usize),
    #[error("the frame does not hold what it should")]
    Body,
}

/// A value with its version byte, for files and signatures.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Postcard fails on types without a length only; ours have one.
    let body = postcard::to_stdvec(value).unwrap_or_default();
    let mut bytes = Vec::with_capacity(body.len() + 1);
    bytes.push(FRAME_VERSION);
    bytes.extend_from_slice(&body);
    bytes
}

/// The value of [`encode`]d bytes, all of which must be used.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let (&version, body) = bytes.split_first().ok_or(WireError::Body)?;
    if version != FRAME_VERSION {
        return Err(WireError::Version(version));
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(WireError::Body),
    }
}

/// Writes one frame.
pub(crate) async fn write_frame<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> Result<(), WireError> {
    let bytes = encode(value);
    let len = u32::try_from(bytes.len()).map_err(|_| WireError::TooLong(bytes.len()))?;
    let mut framed = Vec::with_capacity(bytes.len() + 4);
    framed.extend_from_slice(&len.to_le_bytes());
    framed.extend_from_slice(&bytes);
    to.write_all(&framed).await?;
    to.flush().await?;
    Ok(())
}

/// Reads one frame of at most `max` bytes.
pub(crate) async fn read_frame<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> Result<T, WireError> {
    let mut len = [0; 4];
    from.read_exact(&mut len).await?;
    let len = usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX);
    if len > max {
        return Err(WireError::TooLong(len));
    }
    let mut bytes = Vec::with_capacity(len.min(READ_STEP_BYTES));
    while bytes.len() < len {
        let start = bytes.len();
        bytes.resize(len.min(start + READ_STEP_BYTES), 0);
        let rest = bytes.get_mut(start..).ok_or(WireError::Body)?;
        from.read_exact(rest).await?;
    }
    decode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Vec<(String, u64)>>(&bytes);
            let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = rt.block_on(read_frame::<Vec<String>>(&mut bytes.as_slice(), 1000));
        }
    }

    #[tokio::test]
    async fn frames_round_trip_and_are_bounded() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &("abc".to_owned(), 7_u64))
            .await
            .unwrap();
        let back: (String, u64) = read_frame(&mut bytes.as_slice(), 100).await.unwrap();
        assert_eq!(back, ("abc".to_owned(), 7));
        let long: Result<(String, u64), _> = read_frame(&mut bytes.as_slice(), 4).await;
        assert!(matches!(long, Err(WireError::TooLong(_))));
    }
}
