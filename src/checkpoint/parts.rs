//! Names of the parts of a split GGUF model: `STEM-00001-of-00003.gguf`.

/// Most parts of a model: their number has five digits.
const MAX_PARTS: usize = 99_999;

/// A name of that form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// What stands before the numbers, folders included.
    pub stem: &'a str,
    /// Which part it is, from 1.
    pub number: usize,
    /// How many there are.
    pub count: usize,
}

impl<'a> Part<'a> {
    /// Reads the name of a part; `None` for any other name.
    pub fn of(file: &'a str) -> Option<Self> {
        let (rest, count) = file.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| (text.len() == 5).then(|| text.parse().ok()).flatten();
        let (number, count) = (digits(number)?, digits(count)?);
        (1..=MAX_PARTS).contains(&number).then_some(Self { stem, number, count }).filter(|part| number <= part.count)
    }

    /// The names of all parts, in order.
    pub fn all(&self) -> Vec<String> {
        (1..=self.count).map(|number| format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_the_end_make_a_part() {
        let part = Part::of("q/m-1-00002-of-00003.gguf").unwrap();
        assert_eq!((part.stem, part.number, part.count), ("q/m-1", 2, 3));
        assert_eq!(part.all()[2], "q/m-1-00003-of-00003.gguf");
        for other in
            ["m.gguf", "m-00004-of-00003.gguf", "m-00000-of-00003.gguf", "m-1-of-3.gguf", "m-00001-of-00002.bin"]
        {
            assert_eq!(Part::of(other), None, "{other}");
        }
    }
}
