//! Memory whose size a picture decides, and the memory of one picture given to the next.
//!
//! Invariant: what cannot be had is an error. Memory that is asked for in the usual way ends the process instead, with all that it
//! has accepted.
//!
//! Where a buffer is too small, it is given back before new memory is taken, which the system hands out as zeros that cost nothing
//! until they are touched; growing it would copy what nobody reads.

use std::{collections::TryReserveError, hint::black_box};

/// The system has no memory to give: no limit of ours, and no fault of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no memory to be had")]
pub struct OutOfMemory;

impl From<TryReserveError> for OutOfMemory {
    fn from(_: TryReserveError) -> Self {
        Self
    }
}

/// `length` zeros in the memory of `buffer`.
pub(super) fn zeroed(mut buffer: Vec<u8>, length: usize) -> Result<Vec<u8>, OutOfMemory> {
    buffer.clear();
    any(buffer, length)
}

/// `length` bytes in the memory of `buffer`, which hold whatever it held: for those who overwrite them all.
pub(super) fn any(mut buffer: Vec<u8>, length: usize) -> Result<Vec<u8>, OutOfMemory> {
    if length > buffer.capacity() {
        drop(buffer);
        return zeros(length);
    }
    buffer.resize(length, 0);
    Ok(buffer)
}

/// `length` zeros in new memory.
pub(super) fn zeros<T: bytemuck::Zeroable>(length: usize) -> Result<Vec<T>, OutOfMemory> {
    bytemuck::allocation::try_zeroed_vec(length).map_err(|()| OutOfMemory)
}

/// Room for `capacity` values.
pub(super) fn room<T>(capacity: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut room = Vec::new();
    room.try_reserve_exact(capacity)?;
    Ok(room)
}

/// Whether `bytes` can be had now: for code that will ask for as much at most, and ends the process when it gets none.
///
/// They are given back before that code runs. That makes the usual shortage an error, where one picture more does not fit; it does
/// not cover what other threads take in the meantime, nor a system that promises memory which it lacks and ends the process that
/// touches it (overcommit in a full cgroup). Below some MiB nothing is asked, since there the rest of the process fails as likely.
pub(super) fn ask(bytes: u64) -> Result<(), OutOfMemory> {
    const WORTH_ASKING: u64 = 4 << 20;
    if bytes >= WORTH_ASKING {
        let bytes = usize::try_from(bytes).map_err(|_| OutOfMemory)?;
        // Looked at, or the compiler leaves out memory that nobody uses.
        black_box(room::<u8>(bytes)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_an_error() {
        // More than an address space, and more than an allocation may be.
        for bytes in [1 << 62, usize::MAX] {
            assert_eq!(zeroed(vec![1; 8], bytes), Err(OutOfMemory));
            assert_eq!(any(Vec::new(), bytes), Err(OutOfMemory));
            assert_eq!(room::<u8>(bytes), Err(OutOfMemory));
            assert_eq!(zeros::<u32>(bytes), Err(OutOfMemory));
            assert_eq!(ask(bytes as u64), Err(OutOfMemory));
        }
        assert_eq!(ask(8 << 20), Ok(()));
    }

    #[test]
    fn a_buffer_is_used_again_where_it_is_large_enough() {
        let buffer = vec![7; 100];
        let place = buffer.as_ptr();
        let buffer = any(buffer, 60).unwrap();
        assert_eq!((buffer.as_ptr(), buffer.as_slice()), (place, &[7; 60][..]));
        let buffer = zeroed(buffer, 100).unwrap();
        assert_eq!((buffer.as_ptr(), buffer.as_slice()), (place, &[0; 100][..]));
        assert_eq!(any(buffer, 101).unwrap(), [0; 101]);
    }
}
