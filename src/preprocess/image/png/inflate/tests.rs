//! Streams of every kind, whole, cut and damaged, beside what zlib says of them.

use std::io::Write;

use flate2::{Compression, write::ZlibEncoder};
use proptest::prelude::*;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status, Strategy as Search};

use super::*;

/// What comes of a stream that is given in pieces, into room that is given in pieces: the bytes, and whether it has ended well; or the bytes
/// before the damage that is found within `most`.
#[derive(Debug, PartialEq)]
enum Outcome {
    Done(Vec<u8>),
    Ended(Vec<u8>),
    Full(Vec<u8>),
    Damaged,
}

fn ours(stream: &[u8], piece: usize, room: usize, most: usize) -> Outcome {
    let mut inflater = Inflater::new(Blocks::of(1, 1 << 40));
    let mut out = vec![0xaa; most];
    let (mut at, mut rest) = (0, stream);
    loop {
        let next = &rest[..rest.len().min(piece)];
        let end = most.min(at + room);
        let Ok((taken, given)) = inflater.read(next, &mut out[..end], at) else { return Outcome::Damaged };
        assert!(out[end..].iter().all(|&byte| byte == 0xaa), "written beyond its room");
        rest = &rest[taken..];
        at += given;
        out[at..end].fill(0xaa);
        if inflater.is_done() {
            out.truncate(at);
            return Outcome::Done(out);
        }
        if taken == 0 && given == 0 && (rest.is_empty() || at == most) {
            let is_full = at == most;
            out.truncate(at);
            return if is_full { Outcome::Full(out) } else { Outcome::Ended(out) };
        }
        assert!(taken + given > 0, "it does not go on");
    }
}

fn zlib(stream: &[u8], most: usize) -> Outcome {
    let mut inflater = Inflate::new(true, 15);
    let mut out = vec![0; most];
    let status = inflater.decompress(stream, &mut out, InflateFlush::SyncFlush);
    out.truncate(inflater.total_out() as usize);
    match status {
        Ok(Status::StreamEnd) => Outcome::Done(out),
        Err(_) => Outcome::Damaged,
        Ok(_) if out.len() == most => Outcome::Full(out),
        Ok(_) => Outcome::Ended(out),
    }
}

/// As what is found in pictures: noise, slopes, patches, copies from afar.
fn content(kind: u8, seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        match (kind, bytes.len()) {
            (0, _) => bytes.push(random.u8(..)),
            (1, _) => bytes.push((random.u8(..) & random.u8(..)) >> 4),
            (2, _) => bytes.extend(std::iter::repeat_n(random.u8(..), random.usize(1..600))),
            (3, 1..) if random.u8(..) > 9 => {
                let distance = random.usize(1..=bytes.len().min(32 << 10));
                for _ in 0..random.usize(3..300) {
                    bytes.push(bytes[bytes.len() - distance]);
                }
            }
            (4, 1..) if random.u8(..) > 9 => {
                let distance = random.usize(1..=bytes.len().min(40));
                for _ in 0..random.usize(3..20) {
                    bytes.push(bytes[bytes.len() - distance]);
                }
            }
            _ => bytes.push(random.u8(..)),
        }
    }
    bytes.truncate(length);
    bytes
}

fn deflated(content: &[u8], level: i32, strategy: Search, flush: usize) -> Vec<u8> {
    let config = DeflateConfig { strategy, ..DeflateConfig::new(level) };
    let mut deflate = Deflate::new_with_config(config);
    let mut stream = vec![0; content.len() * 2 + 4096];
    for part in content.chunks(flush) {
        let at = deflate.total_out() as usize;
        deflate.compress(part, &mut stream[at..], DeflateFlush::PartialFlush).expect("room");
    }
    let at = deflate.total_out() as usize;
    assert_eq!(deflate.compress(&[], &mut stream[at..], DeflateFlush::Finish), Ok(Status::StreamEnd));
    stream.truncate(deflate.total_out() as usize);
    stream
}

fn streams() -> impl Strategy<Value = Vec<u8>> {
    let strategies = vec![Search::Default, Search::Filtered, Search::HuffmanOnly, Search::Rle, Search::Fixed];
    (0u8..5, any::<u64>(), 0usize..60_000, 0i32..10, prop::sample::select(strategies), 500usize..60_000).prop_map(
        |(kind, seed, length, level, strategy, flush)| deflated(&content(kind, seed, length), level, strategy, flush),
    )
}

proptest! {
    #[test]
    fn a_stream_is_what_zlib_says(stream in streams(), piece in 1usize..5000, room in 1usize..70_000) {
        let expected = zlib(&stream, 70_000);
        prop_assert!(matches!(expected, Outcome::Done(_)));
        prop_assert!(ours(&stream, piece, room, 70_000) == expected);
        prop_assert!(ours(&stream, stream.len(), 70_000, 70_000) == expected);
    }

    #[test]
    fn a_stream_that_is_cut_gives_what_is_there(stream in streams(), end in 0usize..60_000, piece in 1usize..5000) {
        let cut = &stream[..end % stream.len()];
        prop_assert!(ours(cut, piece, 70_000, 70_000) == zlib(cut, 70_000));
    }

    #[test]
    fn a_damaged_stream_is_refused_where_zlib_refuses_it(
        stream in streams(),
        places in prop::collection::vec((any::<u32>(), 0u8..8), 1..4),
        piece in 1usize..5000,
        early in any::<bool>(),
    ) {
        let mut stream = stream;
        let length = stream.len();
        for (place, bit) in places {
            // Headers are few.
            let place = if early { place as usize % 120 } else { place as usize };
            stream[place % length] ^= 1 << bit;
        }
        prop_assert!(ours(&stream, piece, 70_000, 300_000) == zlib(&stream, 300_000));
    }
}

#[test]
fn a_distance_may_be_as_long_as_there_is_and_no_longer() {
    // A literal and a copy from one before, or from two; codes that need no header.
    let stream = |code: u32| {
        let mut bits: Vec<u32> = vec![1, 1, 0];
        let mut put = |value: u32, count: u32| bits.extend((0..count).rev().map(|bit| value >> bit & 1));
        put(0x30 + 7, 8);
        put(1, 7);
        put(code, 5);
        put(0, 7);
        let bytes = bits.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | *bit as u8));
        let mut sum = Adler32::new();
        sum.write(&[7; 4]);
        [0x78, 1].into_iter().chain(bytes).chain(sum.finish().to_be_bytes()).collect::<Vec<u8>>()
    };
    assert_eq!(ours(&stream(0), 99, 99, 99), Outcome::Done(vec![7; 4]));
    for code in [1, 30, 31] {
        assert_eq!(ours(&stream(code), 99, 99, 99), Outcome::Damaged, "{code}");
    }
}

#[test]
fn the_checksum_is_that_of_all_bytes() {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&[1, 2, 3]).expect("memory");
    let mut stream = encoder.finish().expect("memory");
    assert_eq!(ours(&stream, 1, 1, 9), Outcome::Done(vec![1, 2, 3]));
    *stream.last_mut().expect("a sum") ^= 1;
    assert_eq!(ours(&stream, 1, 1, 9), Outcome::Damaged);
}
