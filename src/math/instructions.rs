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
