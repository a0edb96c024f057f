//! Scanning eBPF instructions (RFC 9669) for calls and for the depth of the stack.

/// Bytes of an instruction.
pub(super) const SIZE: u64 = 8;

/// The frame pointer; the stack grows down from it.
const FRAME: u8 = 10;
/// `call` of another function of the object: the source register field says so.
const CALL: u8 = 0x85;
const LOCAL_CALL: u8 = 1;
/// `destination = source` and `destination += constant`, 64 bits wide.
const COPY: u8 = 0xbf;
const ADD: u8 = 0x07;

/// What a function's instructions say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Eight-byte instructions; a 64-bit constant takes two.
    pub(super) instructions: u32,
    /// Bytes below the frame pointer that it touches or takes the address of.
    pub(super) stack: u32,
    /// Its calls of other functions.
    pub(super) calls: Vec<Call>,
}

/// One call of another function.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// Bytes from the function's begin.
    pub(super) at: u64,
    /// As encoded, in instructions.
    pub(super) offset: i64,
}

/// Scans a function from its first instruction to its last.
pub(super) fn scan(code: &[u8]) -> Scan {
    let mut scan = Scan::default();
    // Registers that hold a copy of the frame pointer. Compilers add the offset in the next instructions, so
    // following one straight line is enough.
    let mut copies = [false; 16];
    for (word, at) in code.as_chunks::<8>().0.iter().zip((0..).step_by(8)) {
        let &[code, registers, low, high, b0, b1, b2, b3] = word;
        let (destination, source) = (registers & 0xf, registers >> 4);
        let offset = i32::from(i16::from_le_bytes([low, high]));
        let constant = i32::from_le_bytes([b0, b1, b2, b3]);
        let mut deepen = |below: i32| {
            if below < 0 {
                scan.stack = scan.stack.max(below.unsigned_abs());
            }
        };
        match code & 0x7 {
            // Loads have their address in the source register, stores in the destination.
            1 if source == FRAME => deepen(offset),
            2 | 3 if destination == FRAME => deepen(offset),
            _ => {}
        }
        let is_copy = copies.get(usize::from(destination)).copied().unwrap_or_default();
        if code == ADD && is_copy {
            deepen(constant);
        }
        let writes = !matches!(code & 0x7, 2 | 3 | 5 | 6);
        if writes && let Some(copy) = copies.get_mut(usize::from(destination)) {
            *copy = code == COPY && source == FRAME;
        }
        if code == CALL && source == LOCAL_CALL {
            scan.calls.push(Call { at, offset: i64::from(constant) });
        }
        scan.instructions += 1;
    }
    scan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, destination: u8, source: u8, offset: i16, constant: i32) -> Vec<u8> {
        let mut bytes = vec![code, source << 4 | destination];
        bytes.extend(offset.to_le_bytes());
        bytes.extend(constant.to_le_bytes());
        bytes
    }

    fn scanned(instructions: &[Vec<u8>]) -> Scan {
        scan(&instructions.concat())
    }

    #[test]
    fn loads_and_stores_below_the_frame_pointer_count() {
        let store = instruction(0x7b, 10, 1, -24, 0);
        let load = instruction(0x79, 1, 10, -32, 0);
        assert_eq!(scanned(std::slice::from_ref(&store)).stack, 24);
        assert_eq!(scanned(&[store, load]).stack, 32);
        // Through other registers: not the stack.
        assert_eq!(scanned(&[instruction(0x79, 1, 2, -64, 0), instruction(0x7b, 3, 10, -64, 0)]).stack, 0);
    }

    #[test]
    fn an_address_on_the_stack_counts_to_its_low_end() {
        let copy = instruction(0xbf, 2, 10, 0, 0);
        let add = instruction(0x07, 2, 0, 0, -200);
        assert_eq!(scanned(&[copy.clone(), add.clone()]).stack, 200);
        let overwritten = instruction(0xb7, 2, 0, 0, 7);
        assert_eq!(scanned(&[copy, overwritten, add]).stack, 0);
    }

    #[test]
    fn only_calls_within_the_object_are_listed() {
        let helper = instruction(0x85, 0, 0, 0, 14);
        let local = instruction(0x85, 0, 1, 0, -1);
        let scan = scanned(&[helper, local]);
        assert_eq!(scan.calls, [Call { at: 8, offset: -1 }]);
        assert_eq!(scan.instructions, 2);
    }
}
