//! The calls of `inference.GRPCInferenceService`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::{Stream, StreamExt, stream};
use onnxd_engine::{EngineError, RequestContext, engine::Origin, models::registry::Model};
use onnxd_proto::domain::tensor::{DataType as TensorType, TensorSpec};
use tonic::{
    Request, Response, Status, Streaming,
    metadata::{AsciiMetadataValue, MetadataMap},
};

use crate::api::grpc::{
    body::{Reservations, UNCHARGED_MESSAGE_BYTES_MAX},
    deadline::Deadline,
    infer,
    pb::{
        self, DataType, InferStatistics, ModelConfig, ModelConfigRequest, ModelConfigResponse,
        ModelInferRequest, ModelInferResponse, ModelInput, ModelInstanceGroup,
        ModelMetadataRequest, ModelMetadataResponse, ModelOutput, ModelReadyRequest,
        ModelReadyResponse, ModelStatisticsRequest, ModelStatisticsResponse,
        ModelStreamInferResponse, ModelVersionPolicy, RepositoryIndexRequest,
        RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
        RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveRequest,
        ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest,
        ServerReadyResponse, StatisticDuration,
        grpc_inference_service_server::GrpcInferenceService,
        model_instance_group::Kind,
        model_metadata_response::TensorMetadata,
        model_version_policy::{Latest, PolicyChoice},
    },
    status,
};
use crate::api::{
    app::App,
    oip::{
        metadata::{Duration, EXTENSIONS, ModelMetadata, ModelStatistics, NAME, PLATFORM},
        request::InferRequest,
    },
};

/// Requests of one stream that are computed concurrently.
const STREAM_CONCURRENCY_MAX: usize = 8;
/// The error of every repository call.
const REPOSITORY_DENIED: &str = "the repository API is not available on this port: use --admin-listen ADDRESS over HTTP, or the admin socket";

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Service {
    app: App,
}

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    pub(super) fn new(app: App) -> Self {
        Self { app }
    }

    /// Runs the message at this index. Returns the response and its headers.
    async fn infer(
        &self,
        context: Result<RequestContext, Status>,
        message: ModelInferRequest,
        (reservations, index): (&Reservations, u64),
    ) -> Result<(ModelInferResponse, Origin), Status> {
        let InferRequest { model, id, tensors } = infer::request(message)?;
        let (engine, context) = (&self.app.engine, context?);
        let model = engine.find_version(&model, &tensors.version).map_err(status::engine)?;
        let answer = engine.run_tensors(&context, model, &tensors).await.map_err(status::engine)?;
        let bytes = answer.output.iter().map(|output| output.data.len()).sum();
        let reserved = engine.memory().reserve(bytes, UNCHARGED_MESSAGE_BYTES_MAX);
        if let Some(reservation) = reserved.map_err(EngineError::from).map_err(status::engine)? {
            reservations.add(index, reservation);
        }
        let origin = answer.origin.clone();
        Ok((infer::response(answer, id)?, origin))
    }

    /// Runs one request of a stream. Errors become responses, so the stream goes on.
    async fn infer_one(
        &self,
        context: Result<RequestContext, Status>,
        message: ModelInferRequest,
        reservations: (&Reservations, u64),
    ) -> ModelStreamInferResponse {
        let id = message.id.clone();
        match self.infer(context, message, reservations).await {
            Ok((response, _)) => ModelStreamInferResponse {
                error_message: String::new(),
                infer_response: Some(response),
            },
            Err(error) => ModelStreamInferResponse {
                error_message: error.message().to_owned(),
                infer_response: Some(ModelInferResponse { id, ..ModelInferResponse::default() }),
            },
        }
    }
}

/// Releases the memory of each response once it was sent: when the next one is polled.
struct ReleaseSent<S> {
    answers: S,
    /// Responses returned so far.
    given: u64,
    reservations: Arc<Reservations>,
}

impl<S: Stream + Unpin> Stream for ReleaseSent<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(sent) = self.given.checked_sub(1) {
            self.reservations.end(sent);
        }
        let next = ready!(self.answers.poll_next_unpin(context));
        self.given += u64::from(next.is_some());
        Poll::Ready(next)
    }
}

/// Returns the reservations of a call.
fn reservations<T>(request: &Request<T>) -> Arc<Reservations> {
    request.extensions().get::<Arc<Reservations>>().cloned().unwrap_or_default()
}

/// Returns the response headers that name the model, as over HTTP.
fn headers(origin: &Origin) -> MetadataMap {
    let mut headers = MetadataMap::new();
    headers.insert("x-model-generation", origin.generation.into());
    // Never fails: names are validated, versions are hexadecimal.
    let values =
        [("x-model-name", origin.model.name.as_str()), ("x-model-version", &origin.record.version)];
    for (name, value) in values {
        if let Ok(value) = AsciiMetadataValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    headers
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Answer<ServerLiveResponse> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Answer<ServerReadyResponse> {
        let ready = self.app.engine.is_ready();
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Answer<ModelReadyResponse> {
        let ModelReadyRequest { name, version } = request.into_inner();
        // An unknown model is not ready, rather than an error.
        let model = self.app.engine.find_version(&name, &version);
        let ready = model.is_ok_and(|model| self.app.engine.is_model_ready(model));
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Answer<ServerMetadataResponse> {
        Ok(Response::new(ServerMetadataResponse {
            name: NAME.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: EXTENSIONS.map(str::to_owned).into(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Answer<ModelMetadataResponse> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let metadata = ModelMetadata::loaded(&self.app.engine, &name, &version);
        let metadata = metadata.await.map_err(status::engine)?;
        let tensor = |spec: TensorSpec| TensorMetadata {
            name: spec.name,
            datatype: spec.datatype.name().into(),
            shape: spec.shape,
        };
        Ok(Response::new(ModelMetadataResponse {
            name: metadata.name,
            versions: vec![metadata.version],
            platform: PLATFORM.into(),
            inputs: metadata.signature.inputs.into_iter().map(tensor).collect(),
            outputs: metadata.signature.outputs.into_iter().map(tensor).collect(),
            properties: metadata.properties.into_iter().collect(),
        }))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Answer<ModelInferResponse> {
        let reservations = reservations(&request);
        let (request_headers, _, message) = request.into_parts();
        let request_headers = request_headers.into_headers();
        let context =
            Deadline::new(&request_headers).and_then(|deadline| deadline.context(&request_headers));
        let (message, origin) = self.infer(context, message, (&reservations, 0)).await?;
        let mut response = Response::new(message);
        *response.metadata_mut() = headers(&origin);
        if origin.is_traced {
            response.extensions_mut().insert(origin);
        }
        Ok(response)
    }

    type ModelStreamInferStream =
        Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Answer<Self::ModelStreamInferStream> {
        let reservations = reservations(&request);
        let (headers, _, messages) = request.into_parts();
        let headers = Arc::new(headers.into_headers());
        let deadline = Deadline::new(&headers)?;
        let (service, held) = (self.clone(), Arc::clone(&reservations));
        let answers = messages.enumerate().map(move |(index, message)| {
            let (service, headers, reservations) =
                (service.clone(), Arc::clone(&headers), Arc::clone(&held));
            async move {
                let reservations = (&*reservations, index as u64);
                Ok(service.infer_one(deadline.context(&headers), message?, reservations).await)
            }
        });
        let late = || Err(Status::deadline_exceeded("the client's deadline has passed"));
        let end = stream::once(async move { deadline.is_past().then(late) });
        let answers = ReleaseSent {
            answers: answers.buffered(STREAM_CONCURRENCY_MAX),
            given: 0,
            reservations,
        };
        let answers = answers.take_until(deadline.passed());
        Ok(Response::new(Box::pin(answers.chain(end.filter_map(std::future::ready)))))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Answer<ModelConfigResponse> {
        let ModelConfigRequest { name, version } = request.into_inner();
        let metadata = ModelMetadata::loaded(&self.app.engine, &name, &version);
        let metadata = metadata.await.map_err(status::engine)?;
        let config = config(metadata, self.app.engine.workers());
        Ok(Response::new(ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Answer<ModelStatisticsResponse> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let collect =
            |model: &Arc<Model>| statistics(ModelStatistics::collect(&self.app.engine, model));
        let model_stats = match name.as_str() {
            "" => self.app.engine.models().iter().map(collect).collect(),
            name => {
                let model = self.app.engine.find_version(name, &version);
                vec![collect(model.map_err(status::engine)?)]
            }
        };
        Ok(Response::new(ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        _: Request<RepositoryIndexRequest>,
    ) -> Answer<RepositoryIndexResponse> {
        Err(Status::permission_denied(REPOSITORY_DENIED))
    }

    async fn repository_model_load(
        &self,
        _: Request<RepositoryModelLoadRequest>,
    ) -> Answer<RepositoryModelLoadResponse> {
        Err(Status::permission_denied(REPOSITORY_DENIED))
    }

    async fn repository_model_unload(
        &self,
        _: Request<RepositoryModelUnloadRequest>,
    ) -> Answer<RepositoryModelUnloadResponse> {
        Err(Status::permission_denied(REPOSITORY_DENIED))
    }
}

/// Returns as much of a Triton model configuration as exists here.
fn config(metadata: ModelMetadata, workers: usize) -> ModelConfig {
    let input = |spec: TensorSpec| ModelInput {
        name: spec.name,
        data_type: triton_type(spec.datatype).into(),
        dims: spec.shape,
    };
    let output = |spec: TensorSpec| ModelOutput {
        name: spec.name,
        data_type: triton_type(spec.datatype).into(),
        dims: spec.shape,
    };
    ModelConfig {
        platform: "onnxruntime_onnx".into(),
        backend: "onnxruntime".into(),
        version_policy: Some(ModelVersionPolicy {
            policy_choice: Some(PolicyChoice::Latest(Latest { num_versions: 1 })),
        }),
        max_batch_size: 0,
        input: metadata.signature.inputs.into_iter().map(input).collect(),
        output: metadata.signature.outputs.into_iter().map(output).collect(),
        instance_group: vec![ModelInstanceGroup {
            name: metadata.name.clone(),
            count: i32::try_from(workers).unwrap_or(i32::MAX),
            kind: Kind::Cpu.into(),
        }],
        name: metadata.name,
    }
}

/// Returns Triton's name for a data type in model configurations.
fn triton_type(datatype: TensorType) -> DataType {
    match datatype {
        TensorType::Bool => DataType::TypeBool,
        TensorType::Int8 => DataType::TypeInt8,
        TensorType::Int16 => DataType::TypeInt16,
        TensorType::Int32 => DataType::TypeInt32,
        TensorType::Int64 => DataType::TypeInt64,
        TensorType::Uint8 => DataType::TypeUint8,
        TensorType::Uint16 => DataType::TypeUint16,
        TensorType::Uint32 => DataType::TypeUint32,
        TensorType::Uint64 => DataType::TypeUint64,
        TensorType::Fp16 => DataType::TypeFp16,
        TensorType::Bf16 => DataType::TypeBf16,
        TensorType::Fp32 => DataType::TypeFp32,
        TensorType::Fp64 => DataType::TypeFp64,
        TensorType::Bytes => DataType::TypeString,
    }
}

fn statistics(statistics: ModelStatistics) -> pb::ModelStatistics {
    let stats = statistics.inference_stats;
    let duration = |Duration { count, ns }| Some(StatisticDuration { count, ns });
    pb::ModelStatistics {
        name: statistics.name,
        version: statistics.version,
        last_inference: 0,
        inference_count: statistics.inference_count,
        execution_count: statistics.execution_count,
        inference_stats: Some(InferStatistics {
            success: duration(stats.success),
            fail: duration(stats.fail),
            queue: duration(stats.queue),
            compute_input: duration(stats.compute_input),
            compute_infer: duration(stats.compute_infer),
            compute_output: duration(stats.compute_output),
            cache_hit: duration(stats.cache_hit),
            cache_miss: duration(stats.cache_miss),
        }),
        batch_stats: Vec::new(),
    }
}
