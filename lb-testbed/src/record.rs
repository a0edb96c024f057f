//! What echo servers and their clients exchange: a banner, then records that come back unchanged.

/// Bytes of a banner.
pub const BANNER: usize = 16;
/// Bytes of a record.
pub const RECORD: usize = 20;

/// The banner of the server with this id, which must have at most [`BANNER`] bytes: padded with zeros.
pub fn banner(id: &str) -> [u8; BANNER] {
    let mut banner = [0; BANNER];
    for (place, byte) in banner.iter_mut().zip(id.bytes()) {
        *place = byte;
    }
    banner
}

/// The id in a banner.
pub fn id(banner: &[u8; BANNER]) -> String {
    String::from_utf8_lossy(banner).trim_end_matches('\0').to_owned()
}

/// Record `seq` of connection `conn`, with its CRC-32 at the end: no two are alike.
pub fn record(conn: u64, seq: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    let (head, crc) = record.split_at_mut(16);
    head[..8].copy_from_slice(&conn.to_be_bytes());
    head[8..].copy_from_slice(&seq.to_be_bytes());
    crc.copy_from_slice(&crc32fast::hash(head).to_be_bytes());
    record
}
