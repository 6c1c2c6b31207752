//! Which vector instructions there are, for kernels that are written for each.

/// Instructions that a kernel is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// AVX-512's foundation.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with multiply-add and the conversion of half precision.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Any machine's.
    Any,
}

impl Instructions {
    /// The best of this machine.
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if Self::has_avx2() {
                return Self::Avx2;
            }
        }
        Self::Any
    }

    #[cfg(target_arch = "x86_64")]
    fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
    }

    /// All of this machine, for tests.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Self> {
        let mut all = vec![Self::Any];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(is_x86_feature_detected!("avx512f").then_some(Self::Avx512));
            all.extend(Self::has_avx2().then_some(Self::Avx2));
        }
        all
    }
}

/// The expression for the given [`Instructions`]: first AVX-512's, then AVX2's, then any machine's.
///
/// The first two may call functions that need those instructions, as whoever has the value was told that they are there.
macro_rules! by_instructions {
    ($by:expr, $avx512:expr, $avx2:expr, $any:expr $(,)?) => {
        match $by {
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "the instructions were asked for")]
            Instructions::Avx512 => unsafe { $avx512 },
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "the instructions were asked for")]
            Instructions::Avx2 => unsafe { $avx2 },
            Instructions::Any => $any,
        }
    };
}
pub(super) use by_instructions;
