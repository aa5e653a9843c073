//! How a connection is ended.

use tokio::net::TcpStream;

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Closing {
    /// By RST: leaves no TIME-WAIT, so local ports never run out
    Reset,
    /// By FIN, as programs do: the local port rests for a minute (RFC 9293, section 3.6.1)
    Fin,
}

impl Closing {
    /// Ends `stream`.
    pub fn close(self, stream: TcpStream) {
        if self == Self::Reset {
            // A connection that is gone already needs no RST.
            let _ = stream.set_zero_linger();
        }
        drop(stream);
    }
}
