//! The FIFO of a serial port.

/// Most entries that a FIFO holds.
pub const DEPTH_MAX: usize = 16;

/// Bytes in the order in which they came. How deep it is may change while it is used, up to [`DEPTH_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fifo {
    bytes: [u8; DEPTH_MAX],
    first: usize,
    count: usize,
    depth: usize,
}

impl Fifo {
    /// An empty FIFO for `depth` bytes, at least 1 and at most [`DEPTH_MAX`].
    pub const fn new(depth: usize) -> Self {
        let depth = match depth {
            0 => 1,
            1..=DEPTH_MAX => depth,
            _ => DEPTH_MAX,
        };
        Self { bytes: [0; DEPTH_MAX], first: 0, count: 0, depth }
    }

    /// How many bytes it holds.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// How many bytes it can hold.
    pub const fn depth(&self) -> usize {
        self.depth
    }

    /// True where it holds nothing.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// True where it takes no more.
    pub const fn is_full(&self) -> bool {
        self.count >= self.depth
    }

    /// Takes a byte; false where there is no room for it.
    pub fn push(&mut self, byte: u8) -> bool {
        if self.is_full() {
            return false;
        }
        self.bytes[(self.first + self.count) % DEPTH_MAX] = byte;
        self.count += 1;
        true
    }

    /// Gives the oldest byte.
    pub fn pop(&mut self) -> Option<u8> {
        if self.is_empty() {
            return None;
        }
        let byte = self.bytes[self.first];
        self.first = (self.first + 1) % DEPTH_MAX;
        self.count -= 1;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_however_often_it_wraps() {
        let mut fifo = Fifo::new(DEPTH_MAX);
        for round in 0..100u8 {
            for byte in 0..7 {
                assert!(fifo.push(round.wrapping_mul(7).wrapping_add(byte)));
            }
            for byte in 0..7 {
                assert_eq!(fifo.pop(), Some(round.wrapping_mul(7).wrapping_add(byte)));
            }
            assert_eq!(fifo.pop(), None);
        }
    }

    #[test]
    fn it_takes_as_many_as_it_is_deep() {
        for (asked, depth) in [(0, 1), (1, 1), (4, 4), (16, 16), (17, 16)] {
            let mut fifo = Fifo::new(asked);
            assert_eq!((0..20).filter(|byte| fifo.push(*byte)).count(), depth);
            assert!(fifo.is_full());
            assert_eq!((fifo.len(), fifo.depth()), (depth, depth));
        }
    }
}
