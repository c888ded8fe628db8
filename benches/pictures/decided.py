"""What is decided otherwise than Pillow does, and is in no file of the public test suites: found by made and damaged pictures."""

# Format, what is in the file, what Pillow 13.0.0 does, what is done here.
OTHERWISE = [
    ("EXIF", "a header of another kind, shorter than 8 bytes, or of little-endian BigTIFF", "fails", "upright"),
    ("EXIF", "an orientation that is a fraction, or does not fit its field", "fails while it writes the block back", "turned"),
    ("JPEG", "one scan, damaged, without an end marker", "shows many of them", "refused"),
    ("JPEG", "more than 64 KiB, no end marker, fewer than 8 bytes behind the pixels", "by where its blocks of 64 KiB lie", "by whether all rows are there"),
    ("JPEG", "scans that cost six times the pixels, of arithmetic coding four times", "shows them", "refused: `too_many_scans`"),
    ("JPEG", "tables in one stream, the picture in a second one", "shows it", "refused"),
    ("PNG", "a header that is not first, or there twice", "shows it", "refused"),
    ("PNG", "more data than twice the pixels' bytes and 1 MiB before the last row", "shows it", "refused"),
    ("GIF", "codes of 12 bits at once, the next code at once", "shows some", "refused"),
    ("TIFF", "signed or deep grey, floats", "clips to 0 to 255", "the same"),
    ("TIFF", "planes of 16 bits, not compressed", "noise", "the picture"),
    ("TIFF", "palettes and grey of less than 8 bits in planes, not compressed", "noise, or refuses", "refused"),
    ("TIFF", "old JPEG in several strips", "every other strip, twice", "the picture"),
    ("TIFF", "old JPEG in tiles or planes", "shows some", "refused"),
    ("TIFF", "JPEG of two components, or of more than four", "shows it", "refused"),
    ("TIFF", "fax lines of more than 1,048,576 pixels", "shows them", "refused"),
    (
        "TIFF",
        "more than 32,768 strips of all planes together and one for 256 pixels, of JPEG, LZMA and Zstandard 16,384 and one for 2,048; "
        "tiles of more than twice the pixels and 4 million",
        "shows them",
        "refused",
    ),
    ("TIFF", "more data in a strip than twice its pixels' bytes and 1 KiB", "passes over it", "what is beyond is not read"),
    ("TIFF", "of Deflate, LZMA and Zstandard more than 8,192 blocks, four for each strip and one for 256 bytes of pixels", "shows it", "refused"),
    ("TIFF", "WebP, ThunderScan", "refuses the first", "refused"),
    ("AVIF", "AV1 data of another size than the file says", "scales them", "refused"),
    ("AVIF", "more than 8 frames in one picture, or layers of more than 16 million pixels in all", "shows the first", "refused"),
]
