//! The whole path against the reference's crops, and against files made to hurt.

use std::{fs, io::Cursor, path::PathBuf};

use ndarray::Array3;
use ndarray_npy::NpzReader;

use super::*;
use crate::model::{pictures::PicturePreparation, preprocessor::PreprocessorConfig};

mod fast_decode;
mod rules;
mod streamed;

fn fixtures() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
}

fn picture(name: &str) -> Vec<u8> {
    fs::read(fixtures().join("images").join(name)).unwrap()
}

fn processor(json: &str) -> ImageProcessor {
    let options = ImageOptions { exif_orientation: true, fast_decode: false, max_pixels: 50_000_000 };
    ImageProcessor::new(&PicturePreparation::Transformers(PreprocessorConfig::from_json(json).unwrap()), options)
        .unwrap()
}

fn clip() -> ImageProcessor {
    processor("{}")
}

fn with_limit(max_pixels: u64) -> ImageProcessor {
    let options = ImageOptions { exif_orientation: true, fast_decode: false, max_pixels };
    ImageProcessor::new(&PicturePreparation::Transformers(PreprocessorConfig::from_json("{}").unwrap()), options)
        .unwrap()
}

mod goldens {
    use super::*;

    #[test]
    fn every_crop_equals_the_references_to_the_byte() {
        let file = fs::File::open(fixtures().join("golden/crops.npz")).unwrap();
        let mut crops = NpzReader::new(file).unwrap();
        let names = crops.names().unwrap();
        assert_eq!(names.len(), 36, "the fixtures are whole");
        for name in names {
            let expected: Array3<u8> = crops.by_name(&name).unwrap();
            let crop = clip().process(&picture(&name)).unwrap();
            assert_eq!(expected.shape(), [crop.height() as usize, crop.width() as usize, 3], "{name}");
            let worst = expected.iter().zip(crop.as_bytes()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            let allowed = if name == "cat_lossy.webp" { 2 } else { 0 };
            assert!(worst <= allowed, "{name} differs by {worst}");
        }
    }

    #[test]
    fn one_pixel_is_enough() {
        let crop = clip().process(&picture("one_pixel.png")).unwrap();
        let pixel = &crop.as_bytes()[..3];
        assert!(crop.as_bytes().chunks_exact(3).all(|other| other == pixel));
    }

    #[test]
    fn a_picture_is_turned_by_its_orientation_and_not_when_that_is_switched_off() {
        let options = ImageOptions { exif_orientation: false, fast_decode: false, max_pixels: 50_000_000 };
        let mut as_stored = ImageProcessor::new(
            &PicturePreparation::Transformers(PreprocessorConfig::from_json("{}").unwrap()),
            options,
        )
        .unwrap();
        for orientation in 2..=8 {
            let bytes = picture(&format!("cat_exif_{orientation}.jpg"));
            let turned = clip().decode(&bytes).unwrap();
            let stored = as_stored.decode(&bytes).unwrap();
            assert_ne!(turned, stored, "{orientation}");
            let (sides, stored_sides) = ((turned.width(), turned.height()), (stored.width(), stored.height()));
            let expected = if orientation >= 5 { (stored_sides.1, stored_sides.0) } else { stored_sides };
            assert_eq!(sides, expected, "{orientation}");
        }
    }
}

mod between_pictures {
    use super::*;

    #[test]
    fn no_picture_shows_in_the_next() {
        let mut names: Vec<String> = fs::read_dir(fixtures().join("images"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let mut used = clip();
        for name in names.iter().chain(names.iter().rev()) {
            let bytes = picture(name);
            assert_eq!(used.process(&bytes), clip().process(&bytes), "{name}");
        }
    }

    #[test]
    fn a_jpeg_without_tables_is_not_decoded_with_those_of_the_one_before() {
        let whole = picture("cat_420.jpg");
        let mut bytes = whole.clone();
        while let Some(at) = bytes.windows(2).position(|w| w == [0xff, 0xdb] || w == [0xff, 0xc4]) {
            let length = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
            bytes.drain(at..at + 2 + length);
        }
        let mut used = clip();
        used.process(&whole).unwrap();
        assert_eq!(used.process(&bytes), clip().process(&bytes));
        assert_eq!(used.process(&bytes).unwrap_err().reason(), "corrupt");
    }

    #[test]
    fn a_picture_leaves_its_memory_to_the_next_unless_it_is_large() {
        let mut processor = clip();
        let mut after = |image| {
            processor.crop(image).unwrap();
            processor.scratch.bytes()
        };
        let (small, large) =
            (RgbImage::new(640, 480, vec![1; 640 * 480 * 3]), RgbImage::new(2400, 2400, vec![1; 2400 * 2400 * 3]));
        assert!((640 * 480 * 3..MAX_KEPT_BYTES).contains(&after(small)));
        assert_eq!(after(large), 0);
    }
}

mod geometry {
    use super::*;

    /// A picture whose pixels tell where they are.
    fn map(width: u32, height: u32) -> RgbImage {
        let data = (0..height).flat_map(|y| (0..width).flat_map(move |x| [x as u8 + 1, y as u8 + 1, 1])).collect();
        RgbImage::new(width, height, data)
    }

    #[test]
    fn the_crop_is_the_middle_and_black_surrounds_what_is_too_small() {
        let crop = |width, height| {
            let mut processor = processor(r#"{"do_resize": false, "crop_size": {"height": 4, "width": 3}}"#);
            assert_eq!(processor.crop_size(), (4, 3));
            let crop = processor.crop(map(width, height)).unwrap();
            assert_eq!((crop.height(), crop.width()), (4, 3));
            let columns: Vec<u8> = crop.as_bytes().chunks_exact(9).max().unwrap().iter().step_by(3).copied().collect();
            let rows: Vec<u8> = (0..4)
                .map(|y| crop.as_bytes()[y * 9..][..9].iter().skip(1).step_by(3).max().copied().unwrap())
                .collect();
            (columns, rows)
        };
        assert_eq!(crop(3, 4), (vec![1, 2, 3], vec![1, 2, 3, 4]));
        // (6 - 3) // 2 = 1 and (7 - 4) // 2 = 1 are left out before.
        assert_eq!(crop(6, 7), (vec![2, 3, 4], vec![2, 3, 4, 5]));
        // Of one zero it is before, of three two are.
        assert_eq!(crop(2, 1), (vec![0, 1, 2], vec![0, 0, 1, 0]));
    }

    #[test]
    fn an_exact_size_ignores_the_aspect_ratio_and_needs_no_crop() {
        let mut processor = processor(r#"{"do_center_crop": false, "size": {"height": 4, "width": 6}, "resample": 0}"#);
        assert_eq!(processor.crop_size(), (4, 6));
        let crop = processor.crop(map(3, 2)).unwrap();
        assert_eq!(crop.as_bytes()[..18].iter().step_by(3).copied().collect::<Vec<_>>(), [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn crops_of_no_fixed_size_are_refused_at_the_start() {
        let options = ImageOptions { exif_orientation: true, fast_decode: false, max_pixels: 1 };
        for json in [r#"{"do_center_crop": false}"#, r#"{"do_center_crop": false, "do_resize": false, "size": [2, 2]}"#]
        {
            let config = PicturePreparation::Transformers(PreprocessorConfig::from_json(json).unwrap());
            assert_eq!(ImageProcessor::new(&config, options).unwrap_err(), UnsupportedPreprocessing::NoFixedSize);
        }
    }

    #[test]
    fn the_most_extreme_shapes_cost_one_crop() {
        for (width, height) in [(1, 50_000_000), (50_000_000, 1)] {
            for filter in 0..6 {
                let image = RgbImage::new(width, height, vec![77; 150_000_000]);
                let crop = processor(&format!(r#"{{"resample": {filter}}}"#)).crop(image).unwrap();
                assert!(crop.as_bytes().iter().all(|&value| value == 77));
            }
        }
    }
}

mod refusals {
    use super::*;

    fn refusal(bytes: &[u8]) -> ImageError {
        clip().process(bytes).unwrap_err()
    }

    /// An 8-bit RGB PNG's header, with a sound checksum.
    fn png_header(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        ::png::Encoder::new(&mut bytes, width, height).write_header().unwrap();
        bytes
    }

    fn gif_header(width: u16, height: u16) -> Vec<u8> {
        let (width, height) = (width.to_le_bytes(), height.to_le_bytes());
        let frame = [b",\0\0\0\0".as_slice(), &width, &height, b"\0\x02\x02\x4c\x01\0;"].concat();
        [b"GIF89a".as_slice(), &width, &height, b"\x80\0\0\0\0\0\xff\xff\xff", &frame].concat()
    }

    fn bmp_header(width: i32, height: i32) -> Vec<u8> {
        let sides = [width.to_le_bytes(), height.to_le_bytes()].concat();
        [b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".as_slice(), &sides, b"\x01\0\x18\0", &[0; 24]].concat()
    }

    /// A lossless WebP that claims any size in 30 bytes.
    fn webp_header(width: u32, height: u32) -> Vec<u8> {
        let sides = ((width - 1) | ((height - 1) << 14)).to_le_bytes();
        let body = [b"WEBPVP8L\x0a\0\0\0\x2f".as_slice(), &sides, &[0; 5]].concat();
        [b"RIFF".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat()
    }

    fn tiff_header(width: u32, height: u32) -> Vec<u8> {
        let entry = |tag: u16, value: u32| [&tag.to_le_bytes()[..], b"\x04\0\x01\0\0\0", &value.to_le_bytes()].concat();
        let entries = [
            entry(256, width),
            entry(257, height),
            entry(258, 8),
            entry(259, 1),
            entry(262, 1),
            entry(273, 8),
            entry(277, 1),
            entry(278, height),
            entry(279, width.saturating_mul(height)),
        ];
        [b"II*\0\x08\0\0\0\x09\0".as_slice(), &entries.concat(), &[0; 4]].concat()
    }

    /// `photo_640x480.jpg` with other sides in its frame header.
    fn jpeg_header(width: u16, height: u16) -> Vec<u8> {
        let mut bytes = picture("photo_640x480.jpg");
        let frame = bytes.windows(4).position(|w| w == [0xff, 0xc0, 0, 17]).unwrap();
        bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
        bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
        bytes
    }

    #[test]
    fn a_picture_of_the_limit_passes_and_one_pixel_more_does_not_in_every_format() {
        for name in [
            "photo_640x480.jpg",
            "cat_444.jpg",
            "exact_224.png",
            "animated.gif",
            "cat.bmp",
            "cat_lossy.webp",
            "astronaut_lzw.tiff",
        ] {
            let bytes = picture(name);
            let image = clip().decode(&bytes).unwrap();
            let pixels = u64::from(image.width()) * u64::from(image.height());
            assert!(with_limit(pixels).decode(&bytes).is_ok(), "{name}");
            let error = with_limit(pixels - 1).decode(&bytes).unwrap_err();
            assert!(matches!(error, ImageError::TooManyPixels { limit, .. } if limit == pixels - 1), "{name}: {error}");
            assert!(with_limit(0).decode(&bytes).is_err(), "{name}");
            assert!(with_limit(u64::MAX).decode(&bytes).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_header_that_claims_too_much_is_refused_before_any_pixel() {
        for bytes in [
            jpeg_header(65_500, 65_500),
            png_header(1 << 30, 1 << 30),
            gif_header(65_535, 65_535),
            bmp_header(60_000, -50_000),
            webp_header(16_000, 16_000),
            tiff_header(1 << 31, 1 << 31),
        ] {
            let error = refusal(&bytes);
            assert_eq!(error.reason(), "too_many_pixels", "{error}");
            assert!(error.to_string().contains("50000000"), "{error}");
        }
    }

    #[test]
    fn a_small_file_that_claims_an_allowed_size_is_refused_for_what_it_lacks() {
        for bytes in
            [png_header(7_000, 7_000), bmp_header(7_000, 7_000), tiff_header(7_000, 7_000), gif_header(7_000, 7_000)]
        {
            let error = refusal(&bytes);
            assert!(["truncated", "corrupt"].contains(&error.reason()), "{error} {:?}", error.detail());
        }
    }

    #[test]
    fn no_pixels_are_no_picture() {
        for bytes in [gif_header(0, 0), bmp_header(0, 5), tiff_header(0, 1), jpeg_header(0, 480)] {
            let error = refusal(&bytes);
            assert!(
                ["no_pixels", "corrupt", "unsupported_variant"].contains(&error.reason()),
                "{error} {:?}",
                error.detail()
            );
        }
    }

    #[test]
    fn a_truncated_file_is_refused_wherever_it_is_cut() {
        for name in [
            "cat_420.jpg",
            "coffee_progressive.jpg",
            "coffee_cmyk.jpg",
            "exact_224.png",
            "cat_palette.png",
            "cat.bmp",
            "cat_lossy.webp",
            "cat_lossless.webp",
            "astronaut_lzw.tiff",
            "animated.gif",
        ] {
            let whole = picture(name);
            for percent in [1, 10, 50, 90] {
                let cut = &whole[..whole.len() * percent / 100];
                // The first frame of the animation lies before its middle.
                if name == "animated.gif" && percent >= 50 {
                    continue;
                }
                assert!(clip().process(cut).is_err(), "{percent} % of {name}");
            }
        }
        let jpeg = picture("cat_420.jpg");
        assert_eq!(refusal(&jpeg[..jpeg.len() - 2]), ImageError::Truncated { format: ImageFormatName::Jpeg });
    }

    #[test]
    fn a_jpeg_may_have_more_scans_than_encoders_make_but_not_many_times_as_many() {
        let bytes = picture("coffee_progressive.jpg");
        let scans: Vec<usize> =
            bytes.windows(4).enumerate().filter(|(_, w)| w[..3] == [0xff, 0xda, 0]).map(|(i, _)| i).collect();
        let end = bytes.len() - 2;
        let (last, count) = (*scans.last().unwrap(), scans.len());
        let with_scans =
            |scans: usize| [&bytes[..end], &bytes[last..end].repeat(scans - count), &bytes[end..]].concat();
        assert!(clip().decode(&with_scans(count + 4)).is_ok());
        for scans in [40, 2000] {
            assert_eq!(refusal(&with_scans(scans)), ImageError::TooManyScans { scans: scans as u32 });
        }
    }

    #[test]
    fn a_jpeg_without_an_end_is_a_picture_if_its_rows_are_there_and_else_is_not() {
        let whole = picture("cat_420.jpg");
        let expected = clip().decode(&whole).unwrap();
        let data = &whole[..whole.len() - 2];
        let zeros = [0; 64].as_slice();
        // A table cut short, as other data behind the pixels.
        for rest in [zeros, &[0x55; 64], b"\xff\xdb\0\x43\0", b"\xff\xda", b"\xff\xd0"] {
            assert_eq!(clip().decode(&[data, rest].concat()).unwrap(), expected, "{rest:?}");
        }
        let truncated = ImageError::Truncated { format: ImageFormatName::Jpeg };
        // Rows are missing, though nothing but their end can tell.
        for kept in [data.len() / 2, data.len() - 40] {
            assert_eq!(refusal(&data[..kept]), truncated, "{kept}");
        }
        // Pixels of several scans are not there before the end is.
        let progressive = picture("coffee_progressive.jpg");
        assert_eq!(refusal(&[&progressive[..progressive.len() - 2], zeros].concat()), truncated);
    }

    #[test]
    fn a_jpeg_with_a_stray_byte_is_still_a_picture() {
        let bytes = picture("cat_420.jpg");
        let table = bytes.windows(2).position(|w| w == [0xff, 0xdb]).unwrap();
        let stray = [&bytes[..table], &[0], &bytes[table..]].concat();
        assert_eq!(clip().decode(&stray), clip().decode(&bytes));
    }

    #[test]
    fn a_png_profile_that_inflates_without_end_is_never_inflated() {
        // A deflate stream of zeros made of stored blocks would be as long as what it holds; a made-up body is enough, since
        // nobody looks inside.
        let bytes = picture("exact_224.png");
        let body = [b"profile\0\0".as_slice(), &[0x78, 0xda, 0xff, 0xff, 0xff]].concat();
        let mut chunk = Vec::new();
        let mut writer = ::png::Encoder::new(&mut chunk, 1, 1).write_header().unwrap();
        writer.write_chunk(::png::chunk::ChunkType(*b"iCCP"), &body).unwrap();
        drop(writer);
        let chunk = &chunk[33..33 + 12 + body.len()];
        let bomb = [&bytes[..33], chunk, &bytes[33..]].concat();
        assert_eq!(clip().decode(&bomb), clip().decode(&bytes));
    }

    #[test]
    fn damage_inside_is_refused_and_never_panics() {
        for name in [
            "cat_420.jpg",
            "exact_224.png",
            "animated.gif",
            "cat.bmp",
            "cat_lossy.webp",
            "cat_lossless.webp",
            "astronaut_lzw.tiff",
        ] {
            let whole = picture(name);
            for at in (0..whole.len().min(600)).step_by(7) {
                for value in [0, 0x7f, 0xff] {
                    let mut bytes = whole.clone();
                    bytes[at] = value;
                    // Some damage changes nothing that matters; none may panic or answer another size.
                    if let Ok(crop) = clip().process(&bytes) {
                        assert_eq!((crop.height(), crop.width()), (224, 224), "{name} {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn messages_name_the_matter_and_no_library() {
        let errors = [
            refusal(b""),
            refusal(b"hello"),
            refusal(b"%PDF-1.4"),
            refusal(&jpeg_header(65_500, 65_500)),
            refusal(&picture("cat_420.jpg")[..2000]),
            refusal(&[b"\x89PNG\r\n\x1a\n".as_slice(), &[0; 40]].concat()),
        ];
        for error in &errors {
            let message = error.to_string();
            assert!(
                !["urbo", "libjpeg", "crate", "::", "{", "Some("].iter().any(|word| message.contains(word)),
                "{message}"
            );
            assert!(ImageError::REASONS.contains(&error.reason()));
        }
        assert_eq!(
            errors[2].to_string(),
            "PDF is not a supported image format; send JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"
        );
        assert!(
            errors[0].format().is_none() && errors[1].is_unsupported_format() && !errors[3].is_unsupported_format()
        );
        assert_eq!(errors[4].format().map(ImageFormatName::as_str), Some("jpeg"));
    }

    #[test]
    fn only_the_first_bytes_decide() {
        let trailer = [picture("exact_224.png"), vec![0; 100_000]].concat();
        assert_eq!(clip().decode(&trailer), clip().decode(&picture("exact_224.png")));
        let jpeg = [picture("cat_420.jpg"), picture("exact_224.png")].concat();
        assert_eq!(clip().decode(&jpeg), clip().decode(&picture("cat_420.jpg")));
    }

    #[test]
    fn the_first_frame_of_an_animated_webp_lies_where_it_says_on_a_black_canvas() {
        let still = picture("cat_lossy.webp");
        let frame = clip().decode(&still).unwrap();
        let u24 = |value: u32| value.to_le_bytes()[..3].to_vec();
        let chunk = |name: &[u8; 4], body: Vec<u8>| [&name[..], &(body.len() as u32).to_le_bytes(), &body].concat();
        let animation = |canvas: (u32, u32), left: u32, top: u32| {
            let sides = [u24(frame.width() - 1), u24(frame.height() - 1)].concat();
            let header = [u24(left / 2), u24(top / 2), sides, u24(100), vec![0]].concat();
            let file = [
                b"WEBP".to_vec(),
                chunk(b"VP8X", [vec![2, 0, 0, 0], u24(canvas.0 - 1), u24(canvas.1 - 1)].concat()),
                chunk(b"ANIM", vec![0xff, 0xff, 0xff, 0xff, 0, 0]),
                chunk(b"ANMF", [header, still[12..].to_vec()].concat()),
            ];
            chunk(b"RIFF", file.concat())
        };
        let canvas = (frame.width() + 10, frame.height() + 7);
        let image = clip().decode(&animation(canvas, 6, 4)).unwrap();
        assert_eq!((image.width(), image.height()), canvas);
        let row = |image: &RgbImage, y: u32| {
            let bytes = image.width() as usize * 3;
            image.as_bytes()[y as usize * bytes..][..bytes].to_vec()
        };
        assert!(row(&image, 3).iter().all(|&value| value == 0));
        let line = row(&image, 4);
        assert!(line[..18].iter().all(|&value| value == 0));
        assert_eq!(line[18..18 + frame.width() as usize * 3], row(&frame, 0));
        // Sticking out of the canvas is damage.
        assert_eq!(clip().decode(&animation(canvas, 12, 4)).unwrap_err().reason(), "corrupt");
    }

    #[test]
    fn what_a_gif_frame_leaves_uncovered_shows_colour_zero() {
        let mut bytes = Vec::new();
        let mut encoder = ::gif::Encoder::new(Cursor::new(&mut bytes), 4, 2, &[9, 8, 7, 1, 2, 3]).unwrap();
        let frame = ::gif::Frame { left: 1, width: 2, height: 1, buffer: vec![1, 1].into(), ..Default::default() };
        encoder.write_frame(&frame).unwrap();
        drop(encoder);
        let image = clip().decode(&bytes).unwrap();
        let (ground, ink) = ([9, 8, 7], [1, 2, 3]);
        assert_eq!(image.as_bytes().as_chunks::<3>().0, [ground, ink, ink, ground, ground, ground, ground, ground]);
    }
}
