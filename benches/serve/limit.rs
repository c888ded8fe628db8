//! What the cores could do at most: products and sums per second out of their registers, and how many images that would be.
//!
//! Owns a loop of one instruction for each arithmetic, on all cores at once, and the count of products in an image's embedding.
//! Touches no memory, so nothing that multiplies matrices by these instructions is faster. AMX's tiles, which no stable Rust
//! reaches, are not among them: where the CPU has them, bf16 and int8 have no limit here.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{arithmetic::Arithmetic, checkpoint::Size};

/// Images per second, or `None` where this program does not know the fastest instruction.
pub(crate) fn images(arithmetic: Arithmetic, size: Size) -> Option<f64> {
    Some(products_per_second(arithmetic)? / products_per_image(size))
}

/// Products in the embedding of an image by a checkpoint of this size, as clipserve serves it (`src/export`): the last block
/// computes queries, output and MLP for the class token alone.
pub(crate) fn products_per_image(size: Size) -> f64 {
    let vision = size.config().vision.expect("both towers by default");
    let (tower, blocks) = (&vision.tower, &vision.tower.transformer);
    let [positions, hidden, wide] =
        [tower.num_positions(), blocks.hidden_size, blocks.intermediate_size].map(|size| size as f64);
    let patch = (tower.patch_size * tower.patch_size * tower.num_channels) as f64;
    // For `rows` of queries: scores and sums over all positions, the query's and output's layers, and the MLP.
    let block = |rows: f64| {
        rows * (2.0 * positions * hidden + 2.0 * hidden * hidden + 2.0 * hidden * wide)
            + positions * 2.0 * hidden * hidden
    };
    let most = (blocks.num_hidden_layers - 1) as f64 * block(positions);
    let ends = (positions - 1.0) * patch * hidden + block(1.0) + hidden * vision.projection_dim as f64;
    most + ends
}

/// How long each core computes.
const WINDOW: Duration = Duration::from_millis(300);

/// Products and sums per second of all CPUs together.
fn products_per_second(arithmetic: Arithmetic) -> Option<f64> {
    let step = fastest(arithmetic)?;
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let one = move || {
        let (started, mut steps) = (Instant::now(), 0_u64);
        while started.elapsed() < WINDOW {
            (step.run)();
            steps += 1;
        }
        steps as f64 * (ROUNDS * ACCUMULATORS) as f64 * step.products / started.elapsed().as_secs_f64()
    };
    let threads: Vec<_> = (0..cpus).map(|_| thread::spawn(one)).collect();
    threads.into_iter().map(|thread| thread.join().ok()).sum()
}

/// An instruction in a loop.
#[derive(Clone, Copy)]
struct Step {
    /// [`ROUNDS`] times [`ACCUMULATORS`] instructions.
    run: fn(),
    /// Of one instruction.
    products: f64,
}

/// Instructions in flight: more than the longest latency at the widest issue.
const ACCUMULATORS: usize = 16;
const ROUNDS: usize = 4096;

#[cfg(target_arch = "x86_64")]
fn fastest(arithmetic: Arithmetic) -> Option<Step> {
    use raw_cpuid::CpuId;
    let features = CpuId::new().get_extended_feature_info()?;
    match arithmetic {
        Arithmetic::F32 if features.has_avx512f() => Some(Step { run: x86::avx512_f32, products: 16.0 }),
        Arithmetic::Bf16 if features.has_avx512_bf16() && !features.has_amx_bf16() => {
            Some(Step { run: x86::avx512_bf16, products: 32.0 })
        }
        Arithmetic::Int8 | Arithmetic::Int8OpenVino if features.has_avx512vnni() && !features.has_amx_int8() => {
            Some(Step { run: x86::avx512_vnni, products: 64.0 })
        }
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn fastest(_arithmetic: Arithmetic) -> Option<Step> {
    None
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that not every CPU has; `fastest` asks first")]
mod x86 {
    use std::{arch::x86_64::*, hint::black_box};

    use super::{ACCUMULATORS, ROUNDS};

    macro_rules! step {
        ($name:ident, $features:literal, $zero:expr, $factor:expr, $operation:expr) => {
            /// [`ROUNDS`] times [`ACCUMULATORS`] instructions, which do not wait for each other. The CPU must have them.
            pub(super) fn $name() {
                #[target_feature(enable = $features)]
                fn run() {
                    let factor = black_box($factor);
                    let mut sums = [$zero; ACCUMULATORS];
                    for _ in 0..ROUNDS {
                        for sum in &mut sums {
                            *sum = $operation(*sum, factor);
                        }
                    }
                    black_box(sums);
                }
                // SAFETY: `fastest` gives this function only where the CPU has the instructions.
                unsafe { run() }
            }
        };
    }

    step!(avx512_f32, "avx512f", _mm512_setzero_ps(), _mm512_set1_ps(0.5), |sum, x| _mm512_fmadd_ps(x, x, sum));
    step!(
        avx512_bf16,
        "avx512f,avx512bf16",
        _mm512_setzero_ps(),
        _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5), _mm512_set1_ps(0.5)),
        |sum, x| _mm512_dpbf16_ps(sum, x, x)
    );
    step!(avx512_vnni, "avx512f,avx512vnni", _mm512_setzero_si512(), _mm512_set1_epi8(1), |sum, x| {
        _mm512_dpbusd_epi32(sum, x, x)
    });
}
