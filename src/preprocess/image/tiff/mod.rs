//! The codecs of TIFF.

#![expect(dead_code, reason = "the reader that calls them comes with the next change")]

mod ccitt;
mod jpeg;
mod lab;
mod ojpeg;
