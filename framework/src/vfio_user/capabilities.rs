//! The version data of VERSION: a JSON object of capabilities (section "VFIO_USER_VERSION").

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ProtocolError;

/// What one side can do. A capability that is absent has the specification's default, which the
/// methods give.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Descriptors that the sender can receive in one message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_msg_fds: Option<u64>,
    /// Bytes of one data transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_data_xfer_size: Option<u64>,
    /// DMA maps at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_dma_maps: Option<u64>,
    /// Page sizes of DMA maps, or'ed together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pgsizes: Option<u64>,
    /// A socket of its own for the server's commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twin_socket: Option<TwinSocket>,
    /// REGION_WRITE_MULTI is understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_multiple: Option<bool>,
}

/// The capability `twin_socket`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinSocket {
    /// The sender can do it, or in a reply: does it.
    #[serde(default)]
    pub supported: bool,
    /// In a reply: which of the message's descriptors is the client's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd_index: Option<u64>,
}

#[derive(Serialize)]
struct VersionData<'a> {
    capabilities: &'a Capabilities,
}

impl Capabilities {
    /// Descriptors in one message; 1 if not said.
    #[must_use]
    pub fn max_msg_fds(&self) -> u64 {
        self.max_msg_fds.unwrap_or(1)
    }

    /// Bytes of one data transfer; 1 MiB if not said.
    #[must_use]
    pub fn max_data_xfer_size(&self) -> u64 {
        self.max_data_xfer_size.unwrap_or(1 << 20)
    }

    /// DMA maps at a time; 65535 if not said.
    #[must_use]
    pub fn max_dma_maps(&self) -> u64 {
        self.max_dma_maps.unwrap_or(65_535)
    }

    /// Page sizes, or'ed together; 4 KiB if not said.
    #[must_use]
    pub fn pgsizes(&self) -> u64 {
        self.pgsizes.unwrap_or(4096)
    }

    /// True if REGION_WRITE_MULTI is understood.
    #[must_use]
    pub fn write_multiple(&self) -> bool {
        self.write_multiple.unwrap_or(false)
    }

    /// True if the twin socket is supported (or, in a reply, used).
    #[must_use]
    pub fn twin_socket(&self) -> bool {
        self.twin_socket.is_some_and(|twin| twin.supported)
    }

    /// Reads version data, without its NUL. No data, and data without capabilities, are the
    /// defaults. Capabilities that the specification does not have are ignored.
    ///
    /// # Errors
    /// [`ProtocolError::Json`]: no JSON, or a capability of another type than the specification's.
    pub fn from_json(data: &[u8]) -> Result<Self, ProtocolError> {
        let bad = |error: serde_json::Error| ProtocolError::Json(error.to_string());
        // An object, and nothing else: serde would take an array of the fields' values too.
        let object = |value: &Value, what: &str| match value {
            Value::Object(_) => Ok(()),
            _ => Err(ProtocolError::Json(format!("{what} is no object"))),
        };
        if data.is_empty() {
            return Ok(Self::default());
        }
        let mut all: Value = serde_json::from_slice(data).map_err(bad)?;
        object(&all, "it")?;
        let Some(capabilities) = all.get_mut("capabilities").map(Value::take) else {
            return Ok(Self::default());
        };
        object(&capabilities, "'capabilities'")?;
        if let Some(twin) = capabilities.get("twin_socket") {
            object(twin, "'twin_socket'")?;
        }
        serde_json::from_value(capabilities).map_err(bad)
    }

    /// Version data with these capabilities, without a NUL.
    ///
    /// # Errors
    /// [`ProtocolError::Json`] does not happen: every field has a JSON form.
    pub fn to_json(&self) -> Result<String, ProtocolError> {
        serde_json::to_string(&VersionData { capabilities: self })
            .map_err(|error| ProtocolError::Json(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_capabilities_have_the_specified_defaults() {
        for data in ["", "{}", r#"{"capabilities":{}}"#, r#"{"capabilities":{"new":[1]},"x":{}}"#] {
            let found = Capabilities::from_json(data.as_bytes()).unwrap();
            assert_eq!(found, Capabilities::default(), "{data}");
        }
        let none = Capabilities::default();
        assert_eq!((none.max_msg_fds(), none.max_data_xfer_size()), (1, 1_048_576));
        assert_eq!((none.max_dma_maps(), none.pgsizes()), (65_535, 4096));
        assert!(!none.twin_socket() && !none.write_multiple());
    }

    #[test]
    fn capabilities_read_back_as_written() {
        let all = Capabilities {
            max_msg_fds: Some(16),
            max_data_xfer_size: Some(4096),
            max_dma_maps: Some(3),
            pgsizes: Some(0x20_1000),
            twin_socket: Some(TwinSocket { supported: true, fd_index: Some(0) }),
            write_multiple: Some(true),
        };
        let json = all.to_json().unwrap();
        assert_eq!(
            json,
            r#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":4096,"max_dma_maps":3,"pgsizes":2101248,"twin_socket":{"supported":true,"fd_index":0},"write_multiple":true}}"#
        );
        assert_eq!(Capabilities::from_json(json.as_bytes()).unwrap(), all);
        assert_eq!(Capabilities::default().to_json().unwrap(), r#"{"capabilities":{}}"#);
    }

    #[test]
    fn garbage_is_an_error() {
        let deep = "[".repeat(100_000);
        for data in [
            "x",
            "{",
            "[]",
            "null",
            r#"{"capabilities":[1]}"#,
            r#"{"capabilities":{"twin_socket":[true]}}"#,
            r#"{"capabilities":3}"#,
            r#"{"capabilities":{"max_msg_fds":-1}}"#,
            r#"{"capabilities":{"max_msg_fds":"8"}}"#,
            r#"{"capabilities":{"twin_socket":true}}"#,
            "{}{}",
            &deep,
        ] {
            let error = Capabilities::from_json(data.as_bytes()).unwrap_err();
            assert!(matches!(error, ProtocolError::Json(_)), "{error}");
        }
        assert!(Capabilities::from_json(&[0xff, 0xfe]).is_err());
    }
}
