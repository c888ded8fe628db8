//! What this machine's CPU can multiply, and what it is called.
//!
//! Owns asking the CPU. Does not own what follows from it (`provider`, `openvino`, and [`super::Engine`] for 8-bit products).

/// Whether the CPU multiplies matrices of bf16.
pub(super) fn computes_in_bf16() -> bool {
    has_amx() || has(raw_cpuid::ExtendedFeatures::has_avx512_bf16)
}

/// Whether it does so faster than of f32: by its matrix units, or by vectors that are not Intel's. An Intel CPU with AVX512-BF16 alone, as
/// virtual machines without AMX show it, multiplies bf16 at 0.58 of its rate in f32; AMD's take half the time (`docs/precision.md`).
pub(super) fn gains_from_bf16() -> bool {
    has_amx() || (computes_in_bf16() && !is_intel())
}

/// Whether the CPU has matrix units for bf16.
pub(super) fn has_amx() -> bool {
    has(raw_cpuid::ExtendedFeatures::has_amx_bf16)
}

/// Whether ONNX Runtime's products of unsigned and signed bytes are exact as they are: they are where the CPU sums them in 32 bits (VNNI).
/// With AVX2 and AVX-512 alone pairs of them are summed in 16 and saturate; Arm's instructions do not.
pub fn sums_bytes_exactly() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        // The system must keep the registers, too, or ONNX Runtime takes other kernels: `std` asks both.
        let wide = std::arch::is_x86_feature_detected!("avx512vnni") && std::arch::is_x86_feature_detected!("avx512bw");
        wide || (std::arch::is_x86_feature_detected!("avx2") && has(raw_cpuid::ExtendedFeatures::has_avx_vnni))
    }
    #[cfg(not(target_arch = "x86_64"))]
    true
}

#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "other CPUs have none of them"))]
fn has(feature: fn(&raw_cpuid::ExtendedFeatures) -> bool) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        raw_cpuid::CpuId::new().get_extended_feature_info().is_some_and(|features| feature(&features))
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The CPU's name, for a message.
pub(super) fn name() -> Option<String> {
    #[cfg(target_arch = "x86_64")]
    {
        let cpuid = raw_cpuid::CpuId::new();
        cpuid.get_processor_brand_string().map(|name| name.as_str().trim().to_owned())
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Whether it is one that OpenVINO's plugin takes.
pub(super) fn is_intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        raw_cpuid::CpuId::new().get_vendor_info().is_some_and(|vendor| vendor.as_str() == "GenuineIntel")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}
