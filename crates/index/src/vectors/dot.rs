//! Inner products of a query with codes. The compiler turns most loops into vector instructions; a
//! second copy of them is compiled for AVX2, and is used where the CPU has it.

use onnxd_proto::search::VECTOR_COMPONENTS_MAX;

/// What is subtracted from a code of 8 bits, so that codes of a vector and its opposite are
/// symmetric.
pub(super) const CODE_MIDDLE: f32 = 127.5;
/// The same for the upper 4 bits of a code.
pub(super) const HIGH_MIDDLE: f32 = 7.5;
/// Units of a code that one unit of its upper 4 bits is.
pub(super) const HIGH_STEP: f32 = 16.0;
/// Maximum components of a vector, so that all sums of products with short codes fit 31 bits.
const _: () = assert!(VECTOR_COMPONENTS_MAX <= 65_536);
/// Largest absolute value of a query's codes. With codes of vectors up to 255, a sum over
/// [`SUMMED_AT_ONCE`] components fits 31 bits.
const LONG_MAX: f32 = 2047.0;
/// Largest absolute value of a query's short codes.
const SHORT_MAX: f32 = 127.0;
/// Bytes of a plane whose products are summed in 32 bits.
const SUMMED_AT_ONCE: usize = 2048;
/// Planes that are multiplied in one call.
const ROWS_AT_ONCE: usize = 64;
/// Bytes of a plane that are multiplied at once. They hold twice as many codes.
const BLOCK: usize = 32;

/// A query, ready to be multiplied with codes.
pub(super) struct Products {
    short: Rounded<i8>,
    long: Rounded<i16>,
    #[cfg(target_arch = "x86_64")]
    has_avx2: bool,
}

/// A query rounded to codes.
struct Rounded<T> {
    /// Padded with zeros to whole blocks.
    codes: Vec<T>,
    sum: i32,
    scale: f32,
    /// Norm of what the codes leave out.
    rest: f32,
}

/// Returns the bytes that this number of codes takes in one plane.
pub(super) fn plane_bytes(dimension: usize) -> usize {
    dimension.div_ceil(2 * BLOCK) * BLOCK
}

/// Splits codes into planes of their upper and lower 4 bits. Of each 64 codes, the first 32 are in
/// the lower halves of 32 bytes, the others in the upper halves.
pub(super) fn pack(codes: &[u8], high: &mut [u8], low: &mut [u8]) {
    let blocks = high.chunks_exact_mut(BLOCK).zip(low.chunks_exact_mut(BLOCK));
    for (codes, (high, low)) in codes.chunks(2 * BLOCK).zip(blocks) {
        let mut padded = [0; 2 * BLOCK];
        padded[..codes.len()].copy_from_slice(codes);
        let (first, second) = padded.split_at(BLOCK);
        for ((first, second), (high, low)) in first.iter().zip(second).zip(high.iter_mut().zip(low))
        {
            *high = (first >> 4) | (second & 0xf0);
            *low = (first & 15) | (second << 4);
        }
    }
}

impl<T: Copy + Default + Into<f64> + Into<i32>> Rounded<T> {
    fn new(query: &[f32], largest_code: f32, round: impl Fn(f32) -> T) -> Self {
        let largest = query.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let scale = (largest / largest_code).max(f32::MIN_POSITIVE);
        let code = |value: &f32| round((value / scale).round().clamp(-largest_code, largest_code));
        let mut codes: Vec<T> = query.iter().map(code).collect();
        let lost = query.iter().zip(&codes).map(|(value, code)| {
            let lost = f64::from(*value) - f64::from(scale) * Into::<f64>::into(*code);
            lost * lost
        });
        #[expect(clippy::cast_possible_truncation, reason = "a norm needs no more precision")]
        let rest = lost.sum::<f64>().sqrt() as f32;
        let sum = codes.iter().map(|code| Into::<i32>::into(*code)).sum();
        codes.resize(2 * plane_bytes(query.len()), T::default());
        Self { codes, sum, scale, rest }
    }
}

impl Products {
    /// Rounds a query to codes.
    pub(super) fn new(query: &[f32]) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the value is within ±127")]
        let short = Rounded::new(query, SHORT_MAX, |value| value as i8);
        #[expect(clippy::cast_possible_truncation, reason = "the value is within ±2047")]
        let long = Rounded::new(query, LONG_MAX, |value| value as i16);
        Self {
            short,
            long,
            #[cfg(target_arch = "x86_64")]
            has_avx2: is_x86_feature_detected!("avx2"),
        }
    }

    /// Returns the norm of what the query's codes leave out.
    pub(super) fn rest(&self) -> f32 {
        self.long.rest
    }

    /// Returns the norm of what the query's short codes leave out.
    pub(super) fn rest_of_short(&self) -> f32 {
        self.short.rest
    }

    /// Calls `use_product` with the product of the query's short codes with the upper 4 bits of codes
    /// of unit scale, for each plane of `stride` bytes.
    pub(super) fn with_high(
        &self,
        planes: &[u8],
        stride: usize,
        use_product: &mut impl FnMut(f32),
    ) {
        let scale = HIGH_STEP / 2.0 * self.short.scale;
        let mut sums = [0; ROWS_AT_ONCE];
        for planes in planes.chunks(ROWS_AT_ONCE * stride) {
            self.high(planes, stride, &mut sums);
            for sum in &sums[..planes.len() / stride] {
                // The middle is subtracted as an integer, because the difference may be small. It is
                // halved above.
                #[expect(clippy::cast_precision_loss, reason = "the bound on the error covers it")]
                let twice = (2 * sum - 15 * self.short.sum) as f32;
                use_product(twice * scale);
            }
        }
    }

    /// Returns the product of the query's codes with codes of unit scale.
    pub(super) fn with_both(&self, high: &[u8], low: &[u8]) -> f32 {
        let planes = high.chunks(SUMMED_AT_ONCE).zip(low.chunks(SUMMED_AT_ONCE));
        let parts = planes.zip(self.long.codes.chunks(2 * SUMMED_AT_ONCE));
        let sum: i64 =
            parts.map(|((high, low), query)| i64::from(self.both(high, low, query))).sum();
        let twice = 2 * sum - 255 * i64::from(self.long.sum);
        #[expect(clippy::cast_precision_loss, reason = "the bound on the error covers it")]
        let twice = twice as f32;
        twice * (self.long.scale / 2.0)
    }

    /// Sets the products of planes, in units of the codes.
    #[cfg(target_arch = "x86_64")]
    fn high(&self, planes: &[u8], stride: usize, sums: &mut [i32]) {
        if self.has_avx2 {
            // SAFETY: the CPU has AVX2, which is the only requirement.
            #[allow(unsafe_code, reason = "calls a function compiled for AVX2")]
            return unsafe { avx2::all_high(planes, stride, &self.short.codes, sums) };
        }
        all_high_portable(planes, stride, &self.short.codes, sums);
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn high(&self, planes: &[u8], stride: usize, sums: &mut [i32]) {
        all_high_portable(planes, stride, &self.short.codes, sums);
    }

    #[cfg(target_arch = "x86_64")]
    fn both(&self, high: &[u8], low: &[u8], query: &[i16]) -> i32 {
        if self.has_avx2 {
            // SAFETY: the CPU has AVX2, which is the only requirement.
            #[allow(unsafe_code, reason = "calls a function compiled for AVX2")]
            return unsafe { avx2::both(high, low, query) };
        }
        both_portable(high, low, query)
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn both(&self, high: &[u8], low: &[u8], query: &[i16]) -> i32 {
        both_portable(high, low, query)
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_loadu_si256,
        _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi8, _mm256_set1_epi16,
        _mm256_setzero_si256, _mm256_srli_epi16, _mm256_storeu_si256,
    };

    use super::BLOCK;

    /// The compiler finds no instruction that multiplies bytes, which makes this three times as fast
    /// as [`super::all_high_portable`].
    #[target_feature(enable = "avx2")]
    pub(super) fn all_high(planes: &[u8], stride: usize, query: &[i8], sums: &mut [i32]) {
        for (plane, sum) in planes.chunks_exact(stride).zip(sums) {
            *sum = high(plane, query);
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn high(high: &[u8], query: &[i8]) -> i32 {
        let (mask, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
        let mut sums = _mm256_setzero_si256();
        let (planes, _) = high.as_chunks::<BLOCK>();
        let (queries, _) = query.as_chunks::<BLOCK>();
        for (codes, query) in planes.iter().zip(queries.chunks_exact(2)) {
            let codes = load(codes);
            let first = _mm256_and_si256(codes, mask);
            let second = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), mask);
            // At most 4 · 15 · 127 in 16 bits.
            let products = _mm256_add_epi16(
                _mm256_maddubs_epi16(first, load(&query[0])),
                _mm256_maddubs_epi16(second, load(&query[1])),
            );
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(products, ones));
        }
        let mut lanes = [0_i32; 8];
        // SAFETY: the array has the 32 bytes that are written.
        #[allow(unsafe_code, reason = "stores a register")]
        unsafe {
            _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sums);
        }
        lanes.iter().sum()
    }

    /// Loads 32 bytes.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn load<T>(bytes: &[T; BLOCK]) -> __m256i {
        const { assert!(size_of::<[T; BLOCK]>() == size_of::<__m256i>()) };
        // SAFETY: the array has the 32 bytes that are read.
        #[allow(unsafe_code, reason = "loads a register")]
        unsafe {
            _mm256_loadu_si256(bytes.as_ptr().cast())
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn both(high: &[u8], low: &[u8], query: &[i16]) -> i32 {
        super::both_portable(high, low, query)
    }
}

fn all_high_portable(planes: &[u8], stride: usize, query: &[i8], sums: &mut [i32]) {
    for (plane, sum) in planes.chunks_exact(stride).zip(sums) {
        *sum = high_portable(plane, query);
    }
}

#[inline(always)]
fn high_portable(high: &[u8], query: &[i8]) -> i32 {
    let mut sum = 0;
    for (codes, query) in high.chunks_exact(BLOCK).zip(query.chunks_exact(2 * BLOCK)) {
        let (first, second) = query.split_at(BLOCK);
        for ((code, first), second) in codes.iter().zip(first).zip(second) {
            sum += i32::from(code & 15) * i32::from(*first)
                + i32::from(code >> 4) * i32::from(*second);
        }
    }
    sum
}

#[inline(always)]
fn both_portable(high: &[u8], low: &[u8], query: &[i16]) -> i32 {
    let mut sum = 0;
    let planes = high.chunks_exact(BLOCK).zip(low.chunks_exact(BLOCK));
    for ((high, low), query) in planes.zip(query.chunks_exact(2 * BLOCK)) {
        let (first, second) = query.split_at(BLOCK);
        for (((high, low), first), second) in high.iter().zip(low).zip(first).zip(second) {
            let (one, other) = ((high << 4) | (low & 15), (high & 0xf0) | (low >> 4));
            sum += i32::from(one) * i32::from(*first) + i32::from(other) * i32::from(*second);
        }
    }
    sum
}

/// Lanes of partial sums: more than one vector register, so that additions overlap.
const LANES: usize = 16;

/// Returns the inner product in f32, always in the same order of additions.
pub(super) fn exact(one: &[f32], other: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (ones, others) = (one.chunks_exact(LANES), other.chunks_exact(LANES));
    let tail: f32 = ones.remainder().iter().zip(others.remainder()).map(|(a, b)| a * b).sum();
    for (one, other) in ones.zip(others) {
        for lane in 0..LANES {
            sums[lane] += one[lane] * other[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares the products with those of codes one by one.
    fn check(codes: &[u8], query: &[f32]) {
        let bytes = plane_bytes(codes.len());
        let (mut high, mut low) = (vec![0; bytes], vec![0; bytes]);
        pack(codes, &mut high, &mut low);
        let products = Products::new(query);
        let short = codes.iter().zip(&products.short.codes);
        let expected: i32 =
            short.map(|(code, query)| i32::from(code >> 4) * i32::from(*query)).sum();
        let mut sums = [0; 2];
        products.high(&[&high[..], &high].concat(), bytes, &mut sums);
        assert_eq!(sums, [expected; 2]);
        assert_eq!(high_portable(&high, &products.short.codes), expected);
        let long = codes.iter().zip(&products.long.codes);
        let expected: f64 =
            long.map(|(code, query)| (f64::from(*code) - 127.5) * f64::from(*query)).sum();
        let expected = expected * f64::from(products.long.scale);
        let found = f64::from(products.with_both(&high, &low));
        assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{found}, not {expected}");
    }

    #[test]
    fn products_of_planes_equal_those_of_codes_one_by_one() {
        for dimension in [1, 31, 64, 65, 384, 4096, 4097, VECTOR_COMPONENTS_MAX] {
            // The extremes, where sums would overflow first, then mixed values.
            check(&vec![255; dimension], &vec![1.0; dimension]);
            check(&vec![0; dimension], &vec![1.0; dimension]);
            check(&vec![0; dimension], &vec![-1.0; dimension]);
            let codes: Vec<u8> = [7, 250, 129].into_iter().cycle().take(dimension).collect();
            let query: Vec<f32> =
                [1.0, -0.3, 0.25, -1.0].into_iter().cycle().take(dimension).collect();
            check(&codes, &query);
        }
    }
}
