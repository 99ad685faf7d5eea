//! CRC-64, reflected, eight bytes at once. Redis and xz use different polynomials.

/// The CRC after eight bytes of which only the byte at the table's index is not zero.
pub(super) type Tables = [[u64; 256]; 8];

/// The tables of a polynomial.
#[allow(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a constant function has no better means")]
pub(super) const fn tables(polynomial: u64) -> Tables {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ polynomial } else { sum >> 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before: u64 = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// The CRC of the bytes before, which is `sum`, and of these bytes.
pub(super) fn crc64(tables: &Tables, mut sum: u64, bytes: &[u8]) -> u64 {
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let mixed = (sum ^ u64::from_le_bytes(*eight)).to_le_bytes();
        sum = mixed.iter().zip(tables.iter().rev()).fold(0, |sum, (byte, table)| sum ^ table[usize::from(*byte)]);
    }
    for byte in rest {
        let [low, ..] = sum.to_le_bytes();
        sum = sum >> 8 ^ tables[0][usize::from(low ^ byte)];
    }
    sum
}
