//! Frames on a stream: length (u32, big-endian, bytes 0..4), then that many bytes.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest frame in bytes, without its length.
pub const MAX_FRAME: usize = 1 << 20;

/// Memory is taken in steps of this many bytes, so that a length alone costs nothing.
const STEP: usize = 64 << 10;

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("{0} bytes")]
    TooLarge(u32),
    #[error("an empty frame")]
    Empty,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The next frame of at most `limit` bytes; `None` at the end of the stream. An end within a frame
/// is an error.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<Option<Vec<u8>>, FrameError> {
    let mut length = [0; 4];
    match stream.read(&mut length).await? {
        0 => return Ok(None),
        n => stream.read_exact(&mut length[n..]).await?,
    };
    let announced = u32::from_be_bytes(length);
    let length = match usize::try_from(announced) {
        Ok(0) => return Err(FrameError::Empty),
        Ok(length) if length <= limit => length,
        _ => return Err(FrameError::TooLarge(announced)),
    };
    let mut frame = Vec::new();
    while frame.len() < length {
        let have = frame.len();
        frame.resize(length.min(have + STEP), 0);
        stream.read_exact(&mut frame[have..]).await?;
    }
    Ok(Some(frame))
}

/// Writes one frame. A frame that is empty or above [`MAX_FRAME`] is an error of the caller.
pub(crate) async fn write(stream: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len())
        .ok()
        .filter(|_| (1..=MAX_FRAME).contains(&frame.len()))
        .ok_or(io::ErrorKind::InvalidInput)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(frame).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..5)) {
            run(async {
                let mut bytes = Vec::new();
                for frame in &frames {
                    write(&mut bytes, frame).await.unwrap();
                }
                let mut stream = bytes.as_slice();
                for frame in &frames {
                    assert_eq!(read(&mut stream, MAX_FRAME).await.unwrap().as_ref(), Some(frame));
                }
                assert!(read(&mut stream, MAX_FRAME).await.unwrap().is_none());
            });
        }

        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>) {
            run(async {
                let mut stream = bytes.as_slice();
                while let Ok(Some(_)) = read(&mut stream, MAX_FRAME).await {}
            });
        }
    }

    #[test]
    fn a_length_alone_is_refused_or_costs_one_step() {
        run(async {
            let over = (MAX_FRAME as u32 + 1).to_be_bytes();
            assert!(matches!(
                read(&mut over.as_slice(), MAX_FRAME).await,
                Err(FrameError::TooLarge(1_048_577))
            ));
            assert!(matches!(
                read(&mut [0; 4].as_slice(), MAX_FRAME).await,
                Err(FrameError::Empty)
            ));
            let cut = (MAX_FRAME as u32).to_be_bytes();
            assert!(matches!(
                read(&mut cut.as_slice(), MAX_FRAME).await,
                Err(FrameError::Io(_))
            ));
            assert!(matches!(
                read(&mut [0, 0].as_slice(), 9).await,
                Err(FrameError::Io(_))
            ));
        });
    }

    #[test]
    fn a_frame_of_exactly_the_limit_passes_and_one_more_is_not_written() {
        run(async {
            let mut bytes = Vec::new();
            write(&mut bytes, &vec![7; MAX_FRAME]).await.unwrap();
            let read = read(&mut bytes.as_slice(), MAX_FRAME).await.unwrap();
            assert_eq!(read.map(|frame| frame.len()), Some(MAX_FRAME));
            assert!(
                write(&mut Vec::new(), &vec![7; MAX_FRAME + 1])
                    .await
                    .is_err()
            );
            assert!(write(&mut Vec::new(), &[]).await.is_err());
        });
    }
}
