//! Feed-forward layers on a device, mixtures of experts among them.

use candle_core::{DType, Tensor};

use crate::model::config::Activation;
use crate::model::device::linear::{DeviceLinear, Place};
use crate::model::layer::FeedForward;
use crate::model::layers::Mlp;
use crate::model::mixture::Routing;

#[derive(Debug)]
pub(super) struct DeviceMlp {
    gate: DeviceLinear,
    up: DeviceLinear,
    down: DeviceLinear,
    activation: Activation,
}

impl DeviceMlp {
    fn new(mlp: &Mlp, place: &Place) -> Result<Self, candle_core::Error> {
        let [gate, up, down] = [&mlp.gate, &mlp.up, &mlp.down].map(|linear| DeviceLinear::new(linear, place));
        Ok(Self { gate: gate?, up: up?, down: down?, activation: mlp.activation })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, candle_core::Error> {
        let gate = self.gate.forward(x)?;
        let gate = match self.activation {
            Activation::Silu => gate.silu()?,
            Activation::GeluTanh => gate.gelu()?,
        };
        self.down.forward(&(gate * self.up.forward(x)?)?)
    }

    fn bytes(&self) -> u64 {
        self.gate.bytes() + self.up.bytes() + self.down.bytes()
    }
}

#[derive(Debug)]
pub(super) enum DeviceFeedForward {
    Dense(DeviceMlp),
    Mixture {
        /// In f32, as on the CPU.
        router: DeviceLinear,
        experts: Vec<DeviceMlp>,
        routing: Routing,
    },
}

impl DeviceFeedForward {
    /// Takes all weights to the device, those of every expert too.
    pub(super) fn new(ffn: &FeedForward, place: &Place) -> Result<Self, candle_core::Error> {
        Ok(match ffn {
            FeedForward::Dense(mlp) => Self::Dense(DeviceMlp::new(mlp, place)?),
            FeedForward::Mixture(mixture) => Self::Mixture {
                router: DeviceLinear::new(&mixture.router, &Place { dtype: DType::F32, ..place.clone() })?,
                experts: mixture.experts.iter().map(|mlp| DeviceMlp::new(mlp, place)).collect::<Result<_, _>>()?,
                routing: mixture.routing,
            },
        })
    }

    /// `x` `[T, hidden]` in f32, and so what it gives. Which experts a token passes is settled on the host, by the CPU's rule.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, candle_core::Error> {
        let (router, experts, routing) = match self {
            Self::Dense(mlp) => return mlp.forward(x),
            Self::Mixture { router, experts, routing } => (router, experts, *routing),
        };
        let routes = routing.of_logits(router.forward(x)?.flatten_all()?.to_vec1()?);
        let mut y = x.zeros_like()?;
        for (expert, routes) in experts.iter().zip(&routes).filter(|(_, routes)| !routes.is_empty()) {
            let tokens: Vec<u32> = routes.iter().map(|route| route.token as u32).collect();
            let weights: Vec<f32> = routes.iter().map(|route| route.weight).collect();
            let tokens = Tensor::from_vec(tokens, routes.len(), x.device())?;
            let weights = Tensor::from_vec(weights, (routes.len(), 1), x.device())?;
            let given = expert.forward(&x.index_select(&tokens, 0)?)?.broadcast_mul(&weights)?;
            y = y.index_add(&tokens, &given, 0)?;
        }
        Ok(y)
    }

    /// Bytes of the weights.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Dense(mlp) => mlp.bytes(),
            Self::Mixture { router, experts, .. } => router.bytes() + experts.iter().map(DeviceMlp::bytes).sum::<u64>(),
        }
    }

    /// Bytes of the experts that a token does not pass.
    pub(super) fn idle_bytes(&self) -> u64 {
        match self {
            Self::Dense(_) => 0,
            Self::Mixture { experts, routing, .. } => experts.first().map_or(0, DeviceMlp::bytes) * routing.n_idle(),
        }
    }
}
