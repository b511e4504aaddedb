//! The serial port to the host.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};

use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use crate::protocol::{self, FromGuest, Request, ToGuest};

/// The port, in raw mode.
#[derive(Debug)]
pub struct Port {
    to: File,
    from: BufReader<File>,
}

impl Port {
    /// Opens it.
    ///
    /// # Errors
    /// If the machine has no second serial port.
    pub fn open() -> io::Result<Self> {
        let to = OpenOptions::new().read(true).write(true).open(protocol::PORT)?;
        let mut settings = tcgetattr(&to)?;
        settings.make_raw();
        tcsetattr(&to, OptionalActions::Now, &settings)?;
        Ok(Self { from: BufReader::new(to.try_clone()?), to })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// If the port does not take it.
    pub fn send(&mut self, message: &FromGuest) -> io::Result<()> {
        self.to.write_all(&protocol::line(message)?)?;
        self.to.flush()
    }

    /// Waits for the host's next message. The host has deadlines for the guest, so none is needed here: a guest that
    /// waits in vain is ended.
    ///
    /// # Errors
    /// If what comes is no message.
    pub fn receive(&mut self) -> io::Result<ToGuest> {
        let mut line = String::new();
        let limit = u64::try_from(protocol::MAX_LINE).unwrap_or(u64::MAX);
        self.from.by_ref().take(limit).read_line(&mut line)?;
        serde_json::from_str(&line)
            .map_err(|error| io::Error::other(format!("the host says {line:?}: {error}")))
    }

    /// Has the host do something.
    ///
    /// # Errors
    /// If the port fails, or the host could not do it.
    pub fn ask(&mut self, request: Request) -> io::Result<()> {
        self.send(&FromGuest::Do(request))?;
        match self.receive()? {
            ToGuest::Done(done) => done.map_err(io::Error::other),
            ToGuest::Job(_) => Err(io::Error::other("the host sends a second job")),
        }
    }
}
