//! The Unix-socket ping-pong: 64 bytes there and back, both sides blocking.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::Laps;
use crate::series::Series;

/// Bytes of a request, and of its answer.
const MESSAGE: usize = 64;

/// The longest that one side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// The client's side.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// A client and the descriptor that the other side serves.
    ///
    /// # Errors
    /// If the kernel gives no pair of sockets.
    pub fn pair() -> Result<(Self, OwnedFd)> {
        let (near, far) = UnixStream::pair().context("making a pair of Unix sockets")?;
        near.set_read_timeout(Some(PATIENCE)).context("limiting the wait on a Unix socket")?;
        Ok((Self { stream: near }, far.into()))
    }

    /// Goes back and forth for about `time`.
    ///
    /// # Errors
    /// If the other side is gone or does not answer within seconds.
    pub fn round_trips(&mut self, time: Duration) -> Result<Series> {
        let mut series = Series::new()?;
        let mut message = [0x5a; MESSAGE];
        let mut laps = Laps::start();
        let begin = laps.began();
        while laps.began().duration_since(begin) < time {
            self.stream.write_all(&message).context("sending over a Unix socket")?;
            self.stream.read_exact(&mut message).context("waiting for an answer by Unix socket")?;
            series.record(laps.lap());
        }
        series.extend(laps.began().duration_since(begin), 0);
        Ok(series)
    }
}

/// The other side: answers until the client is gone.
///
/// # Errors
/// If the socket fails, or nothing comes for seconds.
pub fn serve(socket: OwnedFd) -> Result<()> {
    let mut stream = UnixStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).context("limiting the wait on a Unix socket")?;
    let mut message = [0; MESSAGE];
    loop {
        let mut got = 0;
        while got < MESSAGE {
            match stream.read(&mut message[got..]).context("reading from a Unix socket")? {
                0 => return Ok(()),
                bytes => got += bytes,
            }
        }
        // The client may be gone by now: that is an end, not an error.
        if stream.write_all(&message).is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_there_and_back_and_ends_with_the_client() {
        let (mut client, far) = Client::pair().unwrap();
        std::thread::scope(|scope| {
            let server = scope.spawn(|| serve(far));
            let series = client.round_trips(Duration::from_millis(20)).unwrap();
            assert!(series.operations() > 0);
            drop(client);
            server.join().unwrap().unwrap();
        });
    }
}
