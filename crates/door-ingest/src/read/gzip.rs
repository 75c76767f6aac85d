//! gzip as it comes in, with a bound on what comes out.

use std::io::Write;

use flate2::write::MultiGzDecoder;

/// Compressed bytes that are expanded at once: deflate makes at most about a thousand of one.
const STEP_BYTES: usize = 512;

/// Why compressed bytes cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GzipError {
    /// They are not gzip, or broken.
    Broken,
    /// They expand beyond the bound.
    TooLarge,
}

/// Expands a stream.
pub(crate) struct Gunzip {
    decoder: MultiGzDecoder<Vec<u8>>,
    expanded: u64,
    bytes_max: u64,
}

impl Gunzip {
    /// For at most so many bytes.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { decoder: MultiGzDecoder::new(Vec::new()), expanded: 0, bytes_max }
    }

    /// Expands the next bytes, in steps; each result goes to `each`.
    pub(crate) fn steps(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        bytes.chunks(STEP_BYTES)
    }

    /// Expands one step.
    pub(crate) fn expand(&mut self, step: &[u8]) -> Result<Vec<u8>, GzipError> {
        self.decoder.write_all(step).map_err(|_| GzipError::Broken)?;
        self.decoder.flush().map_err(|_| GzipError::Broken)?;
        self.taken()
    }

    /// What is left at the end; a stream that is not whole is broken.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>, GzipError> {
        self.decoder.try_finish().map_err(|_| GzipError::Broken)?;
        self.taken()
    }

    fn taken(&mut self) -> Result<Vec<u8>, GzipError> {
        let bytes = std::mem::take(self.decoder.get_mut());
        self.expanded = self.expanded.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if self.expanded > self.bytes_max { Err(GzipError::TooLarge) } else { Ok(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn compress(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn expand(bytes: &[u8], max: u64) -> Result<Vec<u8>, GzipError> {
        let mut gunzip = Gunzip::new(max);
        let mut all = Vec::new();
        for step in Gunzip::steps(bytes) {
            all.extend(gunzip.expand(step)?);
        }
        all.extend(gunzip.finish()?);
        Ok(all)
    }

    #[test]
    fn what_is_whole_is_expanded_and_bombs_are_not() {
        let text = b"{\"a\":1}\n".repeat(10_000);
        let small = compress(&text);
        assert_eq!(expand(&small, 1 << 20).unwrap(), text);
        let twice = [small.clone(), small.clone()].concat();
        assert_eq!(expand(&twice, 1 << 20).unwrap().len(), 2 * text.len());
        assert_eq!(expand(&small, 1_000), Err(GzipError::TooLarge));
        let bomb = compress(&vec![0; 64 << 20]);
        assert!(bomb.len() < 100_000, "a bomb is small: {}", bomb.len());
        assert_eq!(expand(&bomb, 1 << 20), Err(GzipError::TooLarge));
        for cut in [1, small.len() / 2, small.len() - 1] {
            assert_eq!(expand(&small[..cut], 1 << 20), Err(GzipError::Broken), "cut at {cut}");
        }
        let mut flipped = small;
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0xff;
        assert_eq!(expand(&flipped, 1 << 20), Err(GzipError::Broken));
        assert_eq!(expand(b"plain", 100), Err(GzipError::Broken));
    }
}
