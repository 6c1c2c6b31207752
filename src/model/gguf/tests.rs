//! One hand-made file per way a GGUF file can be right or wrong.

use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use proptest::prelude::*;

use super::*;
use crate::model::StorageType;

/// Builds the bytes of a GGUF file, right or wrong.
#[derive(Clone)]
struct Builder {
    magic: [u8; 4],
    version: u32,
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    n_keys: Option<u64>,
    n_tensors: Option<u64>,
    alignment: usize,
    data: Vec<u8>,
}

fn builder() -> Builder {
    Builder {
        magic: *b"GGUF",
        version: 3,
        keys: Vec::new(),
        tensors: Vec::new(),
        n_keys: None,
        n_tensors: None,
        alignment: 32,
        data: Vec::new(),
    }
}

fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
}

impl Builder {
    fn key(mut self, name: &str, kind: u32, value: &[u8]) -> Self {
        self.keys.push([&text(name)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let mut entry = text(name);
        entry.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| entry.extend(dim.to_le_bytes()));
        entry.extend(kind.to_le_bytes());
        entry.extend(offset.to_le_bytes());
        self.tensors.push(entry);
        self
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        self.keys.iter().chain(&self.tensors).for_each(|part| out.extend(part));
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }

    fn open(&self) -> Result<Gguf, GgufError> {
        Gguf::from_bytes(Path::new("m.gguf"), self.bytes())
    }

    fn message(&self) -> String {
        self.open().unwrap_err().to_string()
    }
}

fn array(kind: u32, n: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &n.to_le_bytes(), elements].concat()
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A 2 × 3 tensor at 0 (24 bytes, padded to 32) and a vector of 2 halves at 32.
fn small() -> Builder {
    let mut data = f32_bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    data.resize(32, 0);
    data.extend([0x00, 0x3e, 0x00, 0xc0]); // 1.5 and -2 as IEEE halves
    builder()
        .key("general.architecture", 8, &text("llama"))
        .key("llama.block_count", 4, &7u32.to_le_bytes())
        .key("eps", 6, &1e-5f32.to_le_bytes())
        .key("tokens", 9, &array(8, 2, &[text("a"), text("▁b")].concat()))
        .key("scores", 9, &array(6, 2, &f32_bytes(&[0.5, -1.0])))
        .key("types", 9, &array(5, 3, &[1i32, -3, 6].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()))
        .key("nested", 9, &array(9, 2, &[array(0, 1, &[9]), array(7, 2, &[0, 1])].concat()))
        .tensor("w", &[3, 2], 0, 0)
        .tensor("b", &[2], 1, 32)
        .data(&data)
}

#[test]
fn metadata_is_read_and_widened() {
    let gguf = small().open().unwrap();
    assert_eq!(gguf.version(), 3);
    assert_eq!(gguf.str_of("general.architecture").unwrap(), Some("llama"));
    assert_eq!(gguf.u64_of("llama.block_count").unwrap(), Some(7));
    assert_eq!(gguf.f64_of("eps").unwrap(), Some(f64::from(1e-5f32)));
    assert_eq!(gguf.f64_of("llama.block_count").unwrap(), Some(7.0));
    assert_eq!(gguf.strings_of("tokens").unwrap().unwrap(), ["a", "▁b"]);
    assert_eq!(gguf.f32s_of("scores").unwrap().unwrap(), [0.5, -1.0]);
    assert_eq!(gguf.i32s_of("types").unwrap().unwrap(), [1, -3, 6]);
    let nested = Value::Arrays(vec![Value::U64s(vec![9]), Value::Bools(vec![false, true])]);
    assert_eq!(gguf.metadata().get("nested"), Some(&nested));
}

#[test]
fn every_scalar_type_is_read() {
    let gguf = builder()
        .key("u8", 0, &[200])
        .key("i8", 1, &[0xff])
        .key("u16", 2, &[1, 2])
        .key("i16", 3, &[0xfe, 0xff])
        .key("i32", 5, &(-5i32).to_le_bytes())
        .key("bool", 7, &[1])
        .key("u64", 10, &u64::MAX.to_le_bytes())
        .key("i64", 11, &i64::MIN.to_le_bytes())
        .key("f64", 12, &0.1f64.to_le_bytes())
        .open()
        .unwrap();
    let expected = [
        ("u8", Value::U64(200)),
        ("i8", Value::I64(-1)),
        ("u16", Value::U64(513)),
        ("i16", Value::I64(-2)),
        ("i32", Value::I64(-5)),
        ("bool", Value::Bool(true)),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(0.1)),
    ];
    for (key, value) in expected {
        assert_eq!(gguf.metadata().get(key), Some(&value), "{key}");
    }
}

#[test]
fn tensors_come_row_major_in_f32() {
    let gguf = small().open().unwrap();
    assert_eq!(gguf.tensor("w").unwrap().to_vec2::<f32>().unwrap(), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
    assert_eq!(gguf.tensor("b").unwrap().to_vec1::<f32>().unwrap(), [1.5, -2.0]);
    assert_eq!(gguf.tensors()["b"].dtype, StorageType::F16);
    let names =
        [StorageType::Q4K, StorageType::Q4_0, StorageType::BF16, StorageType::Iq4Nl].map(|kind| kind.to_string());
    assert_eq!(names, ["Q4_K", "Q4_0", "BF16", "IQ4_NL"]);
}

#[test]
fn bf16_is_the_upper_half_of_f32() {
    let gguf = builder().tensor("t", &[2], 30, 0).data(&[0xc0, 0x3f, 0x80, 0xbf]).open().unwrap();
    assert_eq!(gguf.tensor("t").unwrap().to_vec1::<f32>().unwrap(), [1.5, -1.0]);
}

#[test]
fn q8_0_is_scale_times_signed_byte() {
    // One block: an IEEE half 0.5, then 32 signed bytes.
    let mut block = vec![0x00, 0x38];
    block.extend((0..32).map(|i| (i - 16i8) as u8));
    let gguf = builder().tensor("t", &[32], 8, 0).data(&block).open().unwrap();
    let expected: Vec<f32> = (0..32).map(|i| (i as f32 - 16.0) * 0.5).collect();
    assert_eq!(gguf.tensor("t").unwrap().to_vec1::<f32>().unwrap(), expected);
}

#[test]
fn block_types_survive_an_odd_alignment() {
    // An alignment of 1 puts the data where the block types do not expect it.
    let source: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let source = candle_core::Tensor::from_vec(source, (2, 256), &candle_core::Device::Cpu).unwrap();
    let kinds = [
        (2, GgmlDType::Q4_0),
        (3, GgmlDType::Q4_1),
        (6, GgmlDType::Q5_0),
        (7, GgmlDType::Q5_1),
        (8, GgmlDType::Q8_0),
        (10, GgmlDType::Q2K),
        (11, GgmlDType::Q3K),
        (12, GgmlDType::Q4K),
        (13, GgmlDType::Q5K),
        (14, GgmlDType::Q6K),
    ];
    for (kind, dtype) in kinds {
        let packed = QTensor::quantize(&source, dtype).unwrap();
        let expected = packed.dequantize(&candle_core::Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
        for name in ["t", "tt", "ttt", "tttt"] {
            let mut file = builder().key("general.alignment", 4, &1u32.to_le_bytes());
            file.alignment = 1;
            let gguf = file.tensor(name, &[256, 2], kind, 0).data(&packed.data().unwrap()).open().unwrap();
            let found = gguf.tensor(name).unwrap().to_vec2::<f32>().unwrap();
            let pairs = found.iter().flatten().zip(expected.iter().flatten());
            assert!(pairs.into_iter().all(|(x, y)| (x - y).abs() <= 1e-6 * (1.0 + y.abs())), "{dtype:?}");
        }
    }
}

#[test]
fn version_2_is_read() {
    let mut file = small();
    file.version = 2;
    assert_eq!(file.open().unwrap().tensor("b").unwrap().to_vec1::<f32>().unwrap(), [1.5, -2.0]);
}

#[test]
fn alignment_of_the_file_is_respected() {
    let mut file = builder().key("general.alignment", 4, &256u32.to_le_bytes());
    file.alignment = 256;
    let gguf = file.tensor("t", &[1], 0, 0).data(&f32_bytes(&[2.5])).open().unwrap();
    assert_eq!(gguf.tensors()["t"].offset, 256);
    assert_eq!(gguf.tensor("t").unwrap().to_vec1::<f32>().unwrap(), [2.5]);
}

#[test]
fn a_file_on_disk_is_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, small().bytes()).unwrap();
    assert_eq!(Gguf::open(&path).unwrap().tensor_bytes("b").unwrap(), [0x00, 0x3e, 0x00, 0xc0]);
    std::fs::write(dir.path().join("empty.gguf"), b"").unwrap();
    assert!(matches!(Gguf::open(&dir.path().join("empty.gguf")), Err(GgufError::StandIn { what: "empty", .. })));
    assert!(matches!(Gguf::open(dir.path()), Err(GgufError::File(_))));
    let missing = Gguf::open(&dir.path().join("other.gguf")).unwrap_err().to_string();
    assert!(missing.contains("other.gguf"), "{missing}");
}

#[test]
fn absent_keys_are_none_and_wrong_types_are_errors() {
    let gguf = small().key("negative", 5, &(-1i32).to_le_bytes()).open().unwrap();
    assert_eq!(gguf.u64_of("nothing").unwrap(), None);
    assert!(gguf.missing("nothing").to_string().contains("has no nothing"));
    let wrong = gguf.u64_of("tokens").unwrap_err().to_string();
    assert_eq!(wrong, "m.gguf: tokens is an array of texts, not an integer of at least 0");
    assert!(gguf.u64_of("negative").is_err());
    assert!(gguf.u32s_of("types").is_err());
    assert!(gguf.str_of("eps").is_err());
    assert!(gguf.strings_of("scores").is_err());
    assert!(gguf.f32s_of("types").is_err());
    assert!(gguf.bool_of("eps").is_err());
}

#[test]
fn other_magic_is_named() {
    let mut file = small();
    file.magic = *b"ggj\x01";
    assert_eq!(file.message(), "m.gguf is not a GGUF file: it begins with \"ggj.\"");
    assert!(matches!(Gguf::from_bytes(Path::new("m"), Vec::new()), Err(GgufError::StandIn { .. })));
}

#[test]
fn big_endian_files_are_recognised() {
    let mut file = small();
    file.version = 3u32.swap_bytes();
    assert!(matches!(file.open(), Err(GgufError::BigEndian { .. })));
    file.magic = *b"FUGG";
    assert!(matches!(file.open(), Err(GgufError::BigEndian { .. })));
}

#[test]
fn other_versions_are_named() {
    for version in [0, 1, 4, 77] {
        let mut file = small();
        file.version = version;
        assert!(matches!(file.open(), Err(GgufError::Version { found, .. }) if found == version));
    }
}

#[test]
fn a_tensor_behind_the_end_names_itself_and_both_sizes() {
    let file = builder().tensor("blk.3.attn_q.weight", &[32, 2], 0, 0).data(&[0; 100]);
    let begin = file.bytes().len() - 100;
    let expected = format!(
        "m.gguf: tensor blk.3.attn_q.weight ends at byte {} but the file has {}: the download is incomplete",
        begin + 256,
        begin + 100
    );
    assert_eq!(file.message(), expected);
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = small().bytes();
    for len in 0..bytes.len() {
        assert!(Gguf::from_bytes(Path::new("m"), bytes[..len].to_vec()).is_err(), "cut to {len} bytes");
    }
}

#[test]
fn hostile_counts_are_refused_before_anything_is_allocated() {
    for count in [1 << 20, u64::MAX / 8, u64::MAX] {
        let mut file = small();
        file.n_keys = Some(count);
        assert!(file.message().contains("the number of metadata keys is"), "{}", file.message());
        let mut file = small();
        file.n_tensors = Some(count);
        assert!(file.message().contains("the number of tensors is"), "{}", file.message());
        for kind in 0..=12 {
            let file = builder().key("k", 9, &array(kind, count, &[0; 64]));
            assert!(file.message().contains("the length of k is"), "{}", file.message());
        }
        let file = builder().key("k", 8, &count.to_le_bytes());
        assert!(file.message().contains("the length of k is"), "{}", file.message());
    }
}

#[test]
fn unknown_value_types_are_refused() {
    assert!(builder().key("k", 13, &[0; 8]).message().contains("k has the unknown value type 13"));
    assert!(builder().key("k", 9, &array(99, 1, &[0; 8])).message().contains("unknown value type 99"));
}

#[test]
fn deep_nesting_is_refused() {
    let mut value = array(0, 1, &[1]);
    for _ in 0..5 {
        value = array(9, 1, &value);
    }
    assert!(builder().key("k", 9, &value).message().contains("nests arrays more than 4 deep"));
}

#[test]
fn texts_that_are_asked_for_must_be_utf8_and_truth_values_0_or_1() {
    let bad = [&2u64.to_le_bytes()[..], &[0xc3, 0x28]].concat();
    let texts = array(8, 2, &[&text("a")[..], &bad].concat());
    // Only what asks for such a text fails: a description has no bearing on the model.
    let gguf = small().key("bad", 8, &bad).key("list", 9, &texts).open().unwrap();
    assert!(gguf.str_of("bad").unwrap_err().to_string().contains("bad is text that is not UTF-8"));
    assert!(gguf.strings_of("list").unwrap_err().to_string().contains("list is text that is not UTF-8"));
    assert!(builder().key("k", 7, &[2]).message().contains("neither 0 nor 1"));
    assert!(builder().key("k", 9, &array(7, 1, &[7])).message().contains("neither 0 nor 1"));
}

#[test]
fn names_may_appear_once() {
    let twice = builder().key("k", 0, &[1]).key("k", 0, &[1]);
    assert!(twice.message().contains("key k appears twice"));
    let twice = builder().tensor("t", &[1], 0, 0).tensor("t", &[1], 0, 32).data(&[0; 64]);
    assert_eq!(twice.message(), "m.gguf: tensor t appears twice");
}

#[test]
fn a_wrong_alignment_is_refused() {
    for alignment in [0u32, 3, 48, 1 << 21] {
        let file = builder().key("general.alignment", 4, &alignment.to_le_bytes());
        assert!(file.message().contains("general.alignment"), "{alignment}");
    }
    let file = builder().tensor("t", &[1], 0, 4).data(&[0; 64]);
    assert!(file.message().contains("not a multiple of 32"));
}

#[test]
fn overlapping_tensors_are_refused() {
    let file = builder().tensor("a", &[9], 0, 0).tensor("b", &[1], 0, 32).data(&[0; 64]);
    assert!(file.message().contains("tensor b begins at byte 32 of the data; 64 is due"), "{}", file.message());
    // Where the size of a tensor is unknown, what follows it may begin anywhere but inside another.
    let file = builder().tensor("a", &[9], 0, 0).tensor("q", &[1], 777, 64).tensor("b", &[1], 0, 32).data(&[0; 96]);
    assert!(file.message().contains("tensor b begins at byte") && file.message().contains("inside tensor a"));
}

#[test]
fn gaps_tell_of_a_wrong_type() {
    // 16 numbers of 4 bytes, said to be halves.
    let file = builder().tensor("a", &[16], 1, 0).tensor("b", &[1], 0, 64).data(&[0; 96]);
    assert!(file.message().contains("tensor b begins at byte 64 of the data; 32 is due"), "{}", file.message());
}

#[test]
fn parts_of_a_split_model_are_found_and_checked() {
    let part = |no: u16, tensor: &str, stated: i32| {
        builder()
            .key("split.no", 2, &no.to_le_bytes())
            .key("split.count", 2, &2u16.to_le_bytes())
            .key("split.tensors.count", 5, &stated.to_le_bytes())
            .tensor(tensor, &[1], 0, 0)
            .data(&f32_bytes(&[f32::from(no) + 1.5]))
    };
    let dir = tempfile::tempdir().unwrap();
    let paths = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"].map(|name| dir.path().join(name));
    let refuses = |path: &Path, words: &str| {
        let message = Gguf::open_model(path).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    };
    std::fs::write(&paths[0], part(0, "a", 2).bytes()).unwrap();
    refuses(&paths[0], "is part 1 of 2 of a split model, and m-00002-of-00002.gguf is not beside it");
    std::fs::write(&paths[1], part(1, "b", 2).bytes()).unwrap();
    for path in &paths {
        let gguf = Gguf::open_model(path).unwrap();
        let value = |name: &str| gguf.tensor(name).unwrap().to_vec1::<f32>().unwrap()[0];
        assert_eq!((value("a"), value("b")), (1.5, 2.5));
    }
    // One part alone is still a file to look into.
    assert_eq!(Gguf::open(&paths[1]).unwrap().tensors().len(), 1);
    std::fs::write(&paths[1], part(0, "b", 2).bytes()).unwrap();
    refuses(&paths[0], "says that its split.no is 0");
    std::fs::write(&paths[1], part(1, "a", 2).bytes()).unwrap();
    refuses(&paths[0], "holds the tensor a, which an earlier part holds too");
    std::fs::write(&paths[1], part(1, "b", 3).bytes()).unwrap();
    // The first part's count is what counts.
    std::fs::write(&paths[0], part(0, "a", 3).bytes()).unwrap();
    refuses(&paths[0], "states 3 tensors in 2 parts, which hold 2");
    let renamed = dir.path().join("renamed.gguf");
    std::fs::write(&renamed, part(0, "a", 2).bytes()).unwrap();
    refuses(&renamed, "its name does not end in -00001-of-00002.gguf");
}

#[test]
fn overflowing_places_and_shapes_are_refused() {
    let far = builder().tensor("t", &[1], 0, u64::MAX - 31).data(&[0; 64]);
    assert!(far.message().contains("; 0 is due"));
    let large = builder().tensor("t", &[1 << 40, 1 << 40], 0, 0).data(&[0; 64]);
    assert!(large.message().contains("more elements than can be counted"));
    let large = builder().tensor("t", &[1 << 62], 0, 0).data(&[0; 64]);
    assert!(large.message().contains("more elements than can be counted"));
}

#[test]
fn absurd_shapes_are_refused() {
    let deep = builder().tensor("t", &[1, 1, 1, 1, 1], 0, 0).data(&[0; 64]);
    assert!(deep.message().contains("has 5 dimensions"));
    assert!(builder().tensor("t", &[4, 0], 0, 0).data(&[0; 64]).message().contains("dimension of 0"));
    let ragged = builder().tensor("t", &[48], 8, 0).data(&[0; 64]);
    assert!(ragged.message().contains("rows of 48 values") && ragged.message().contains("blocks hold 32"));
}

#[test]
fn other_storage_types_fail_only_when_asked_for() {
    let gguf = small().tensor("q", &[256], 21, 64).tensor("r", &[1], 777, 192).open().unwrap();
    assert!(gguf.tensor("w").is_ok());
    let message = gguf.tensor("q").unwrap_err().to_string();
    assert_eq!(message, "m.gguf: tensor q is stored as IQ3_S, which kvscope does not read");
    assert!(gguf.tensor("r").unwrap_err().to_string().contains("type 777"));
    assert!(matches!(gguf.tensor("nothing"), Err(GgufError::NoTensor { .. })));
    assert_eq!(gguf.unreadable().len(), 2);
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        changes in prop::collection::vec((0usize..700, any::<u8>()), 1..12),
        keep in 0usize..700,
    ) {
        let mut bytes = small().bytes();
        for (at, byte) in changes {
            let n = bytes.len();
            bytes[at % n] = byte;
        }
        if keep % 2 == 0 {
            bytes.truncate(keep);
        }
        if let Ok(gguf) = Gguf::from_bytes(Path::new("m"), bytes) {
            for name in gguf.tensors().keys() {
                gguf.tensor(name).unwrap();
            }
        }
    }
}
