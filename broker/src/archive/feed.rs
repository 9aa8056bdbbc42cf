//! Bytes that come in pieces.

/// What came and was not read yet.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    bytes: Vec<u8>,
    /// Everything before was read.
    at: usize,
}

impl Feed {
    /// One that begins with these bytes.
    pub(crate) fn starting_with(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0 }
    }

    /// Where the next bytes are to be appended. What was read goes.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.at);
        self.at = 0;
        &mut self.bytes
    }

    /// What was not read yet.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// Reads the next `len` bytes, or what there is of them.
    pub(super) fn take(&mut self, len: usize) -> &[u8] {
        let start = self.at;
        self.at = start.saturating_add(len).min(self.bytes.len());
        &self.bytes[start..self.at]
    }
}
