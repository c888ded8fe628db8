//! Compiles the one file of C: see `src/preprocess/image/jpeg/rows.c`.

fn main() {
    const ROWS: &str = "src/preprocess/image/jpeg/rows.c";
    println!("cargo::rerun-if-changed={ROWS}");
    let mut build = cc::Build::new();
    // Of the libjpeg that `turbojpeg-sys` builds or finds; where it says nothing, of the system's. A shared libturbojpeg does not do: it shows
    // nothing of libjpeg's own interface.
    if let Some(folders) = std::env::var_os("DEP_TURBOJPEG_INCLUDE") {
        build.includes(folders.to_string_lossy().split(','));
    }
    build.file(ROWS).compile("jpegrows");
}
