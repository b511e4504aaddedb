//! Reading and writing the fields of a message, in the byte order of the host.

use super::ProtocolError;

/// What is left of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    message: &'static str,
    all: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'static str, bytes: &'a [u8]) -> Self {
        Self { message, all: bytes, rest: bytes }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let (first, rest) = self.rest.split_first_chunk::<N>().ok_or(ProtocolError::Short {
            message: self.message,
            need: self.all.len() - self.rest.len() + N,
            got: self.all.len(),
        })?;
        self.rest = rest;
        Ok(*first)
    }

    pub(super) fn u16(&mut self) -> Result<u16, ProtocolError> {
        self.take().map(u16::from_ne_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ProtocolError> {
        self.take().map(u32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, ProtocolError> {
        self.take().map(u64::from_ne_bytes)
    }

    pub(super) fn bytes8(&mut self) -> Result<[u8; 8], ProtocolError> {
        self.take()
    }

    /// All that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// All that is left, which must be `announced` bytes.
    pub(super) fn data(self, announced: u64) -> Result<&'a [u8], ProtocolError> {
        if self.rest.len() as u64 == announced {
            return Ok(self.rest);
        }
        let got = self.rest.len();
        Err(ProtocolError::Count { message: self.message, announced, got })
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), ProtocolError> {
        self.data(0).map(|_| ())
    }

    pub(super) fn bad(
        &self,
        field: &'static str,
        value: u64,
        problem: &'static str,
    ) -> ProtocolError {
        ProtocolError::Field { message: self.message, field, value, problem }
    }
}

/// Appends fields.
pub(super) trait Put {
    fn put_u16(&mut self, value: u16) -> &mut Self;
    fn put_u32(&mut self, value: u32) -> &mut Self;
    fn put_u64(&mut self, value: u64) -> &mut Self;
    fn put(&mut self, bytes: &[u8]) -> &mut Self;
}

impl Put for Vec<u8> {
    fn put_u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_ne_bytes())
    }

    fn put_u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_ne_bytes())
    }

    fn put_u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_ne_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.extend_from_slice(bytes);
        self
    }
}
