//! The memory of one picture given to the next.
//!
//! Where it is too small, it is given back before new memory is taken, which the system hands out as zeros that cost nothing until
//! they are touched; growing it would copy what nobody reads.

/// `length` zeros in the memory of `buffer`.
pub(super) fn zeroed(mut buffer: Vec<u8>, length: usize) -> Vec<u8> {
    buffer.clear();
    any(buffer, length)
}

/// `length` bytes in the memory of `buffer`, which hold whatever it held: for those who overwrite them all.
pub(super) fn any(mut buffer: Vec<u8>, length: usize) -> Vec<u8> {
    if length > buffer.capacity() {
        drop(buffer);
        return vec![0; length];
    }
    buffer.resize(length, 0);
    buffer
}
