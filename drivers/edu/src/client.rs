//! What a program uses: the device's operations as functions.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use doorbell::client::Client;
//! use doorbell_edu::Edu;
//!
//! let client = Client::builder().arena_bytes(0).connect("/run/doorbell/edu0.sock").await?;
//! let edu = Edu::connect(&client).await?;
//! assert_eq!(edu.factorial(5).await?, 120);
//! edu.write(100, b"hello").await?;
//! assert_eq!(edu.read(100, 5).await?, b"hello");
//! # Ok(()) }
//! ```
//!
//! Each of these is a message to the broker and back. No memory of the client's is involved, so the
//! connection needs no arena. Dropping a future is safe; the device finishes what it began.

use doorbell::client::{Client, ClientError};
use thiserror::Error;

use crate::admin::{BUFFER, EduAdmin, EduReply, in_buffer};

/// An operation on the device failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EduError {
    /// The broker, the connection to it, or what the driver or the device said.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The device cannot be opened in this process.
    #[cfg(feature = "driver")]
    #[error(transparent)]
    Local(#[from] doorbell::local::LocalError),
    /// The broker serves something else.
    #[error("device {device}: it is driven by {driver}, not by edu; connect to another broker")]
    NotEdu {
        /// The device.
        device: String,
        /// Its driver.
        driver: String,
    },
    /// Bytes outside of the buffer. Nothing was sent.
    #[error("device {device}: {len} bytes at offset {offset} do not lie in the buffer of {BUFFER}")]
    Range {
        /// The device.
        device: String,
        /// The first byte asked for.
        offset: usize,
        /// How many.
        len: usize,
    },
    /// An answer that does not fit the question.
    #[error(
        "device {0}: the driver's answer does not fit; do client and broker have the same version?"
    )]
    Answer(String),
}

/// An `edu` device. Cheap to clone; clones may be used at the same time.
#[derive(Debug, Clone)]
pub struct Edu {
    client: Client,
    version: (u8, u8),
}

impl Edu {
    /// Uses the device of a connection.
    ///
    /// # Errors
    /// [`EduError::NotEdu`] if its driver is another one; [`EduError::Client`].
    pub async fn connect(client: &Client) -> Result<Self, EduError> {
        let device = client.device();
        if device.driver != "edu" {
            let (device, driver) = (device.name.clone(), device.driver.clone());
            return Err(EduError::NotEdu { device, driver });
        }
        match client.admin(&EduAdmin::Identify).await? {
            EduReply::Version { major, minor } => {
                Ok(Self { client: client.clone(), version: (major, minor) })
            }
            _ => Err(EduError::Answer(device.name.clone())),
        }
    }

    /// Opens a device for this program alone, without a broker process: `soft:edu`.
    ///
    /// # Errors
    /// [`EduError::Local`] if the text names no device or the device does not come up.
    #[cfg(feature = "driver")]
    pub async fn open(spec: &str) -> Result<Self, EduError> {
        let builder = Client::builder().arena_bytes(0);
        let client = doorbell::local::open_with(spec, &crate::registry(), builder).await?;
        Self::connect(&client).await
    }

    /// Major and minor version of the device.
    #[must_use]
    pub fn version(&self) -> (u8, u8) {
        self.version
    }

    /// The connection.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The factorial of a number up to [`crate::MOST_FACTORIAL`], computed by the device.
    ///
    /// # Errors
    /// [`EduError::Client`]: the driver refuses greater numbers; the device does not answer.
    pub async fn factorial(&self, number: u32) -> Result<u32, EduError> {
        match self.client.admin(&EduAdmin::Factorial(number)).await? {
            EduReply::Factorial(factorial) => Ok(factorial),
            _ => Err(self.answer()),
        }
    }

    /// Writes to the device's buffer, by DMA. One write is not torn by another.
    ///
    /// # Errors
    /// [`EduError::Range`]; [`EduError::Client`].
    pub async fn write(&self, offset: usize, data: &[u8]) -> Result<(), EduError> {
        let offset = self.in_buffer(offset, data.len())?;
        match self.client.admin(&EduAdmin::Write { offset, data: data.to_vec() }).await? {
            EduReply::Done => Ok(()),
            _ => Err(self.answer()),
        }
    }

    /// Reads from the device's buffer, by DMA. It holds what was last written by any client.
    ///
    /// # Errors
    /// [`EduError::Range`]; [`EduError::Client`].
    pub async fn read(&self, offset: usize, len: usize) -> Result<Vec<u8>, EduError> {
        let offset = self.in_buffer(offset, len)?;
        // At most `BUFFER`: it fits.
        match self.client.admin(&EduAdmin::Read { offset, len: len as u16 }).await? {
            EduReply::Data(data) if data.len() == len => Ok(data),
            _ => Err(self.answer()),
        }
    }

    fn in_buffer(&self, offset: usize, len: usize) -> Result<u16, EduError> {
        if in_buffer(offset, len) {
            // Below `BUFFER`: it fits.
            return Ok(offset as u16);
        }
        Err(EduError::Range { device: self.client.device().name.clone(), offset, len })
    }

    fn answer(&self) -> EduError {
        EduError::Answer(self.client.device().name.clone())
    }
}
