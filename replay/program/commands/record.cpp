// kvgrind record: a model over prompts, into a trace.
#include "replay/record/record.h"

#include <fmt/format.h>

#include <chrono>

#include "core/error.h"
#include "replay/program/command.h"
#include "replay/program/grid_options.h"
#include "replay/record/prompts.h"
#include "traces/kvt/output_file.h"

namespace kvgrind::program {
namespace {

struct Asked {
  std::string model, out, prompt, context, tokens, texts, device = "auto", queries = "all", fsync = "end", probes;
  std::vector<std::string> questions, answers;
  std::string arithmetic = "f32", dtype = "run", on_full = "block", also;
  std::int64_t decode = 0, top_k = 0, seed = 0, chunk = 512, window = 64, spool_mib = 4096;
  double temperature = 0, top_p = 1, sample_share = 0.1;
  bool force = false, anonymous = false, streaming = false, segments = false;
};

Error usage(std::string found, std::string expected) {
  return Error(Category::usage, {.doing = "reading the command line",
                                 .on = "kvgrind record",
                                 .found = std::move(found),
                                 .expected = std::move(expected),
                                 .next = "`kvgrind record --help` has an example of each"});
}

const traces::Tokenizer& tokenizer_of(const traces::ModelFolder& model, const std::string& folder) {
  if (model.tokenizer) return *model.tokenizer;
  throw Error(Category::missing, {.doing = "reading",
                                  .on = folder,
                                  .found = "no tokenizer.json",
                                  .expected = "one, to turn texts into tokens",
                                  .next = "give ids with --tokens"});
}

// One prompt from files: a context and its questions.
replay::TextPrompt prompt_from_files(const Asked& asked) {
  replay::TextPrompt prompt;
  prompt.context = replay::read_text_file(asked.prompt.empty() ? asked.context : asked.prompt);
  if (asked.answers.size() > asked.questions.size() && !(asked.questions.empty() && asked.answers.size() == 1))
    throw usage(fmt::format("{} answers to {} questions", asked.answers.size(), asked.questions.size()),
                "at most one --answer for each --question, in the same order");
  for (std::size_t i = 0; i < std::max(asked.questions.size(), asked.answers.size()); ++i) {
    replay::TextQuestion question;
    if (i < asked.questions.size()) question.question = replay::read_text_file(asked.questions[i]);
    if (i < asked.answers.size()) question.answer = replay::read_text_file(asked.answers[i]);
    prompt.questions.push_back(std::move(question));
  }
  return prompt;
}

std::vector<TokenSequence> what_to_record(const Asked& asked, const traces::ModelFolder& model) {
  const int sources = !asked.prompt.empty() + !asked.context.empty() + !asked.tokens.empty() + !asked.texts.empty();
  if (sources != 1)
    throw usage(fmt::format("{} of --prompt, --context, --texts and --tokens", sources), "exactly one of them");
  if (!asked.context.empty() || !asked.prompt.empty())
    return replay::sequences_of(prompt_from_files(asked), tokenizer_of(model, asked.model), asked.decode);
  if (!asked.questions.empty() || !asked.answers.empty())
    throw usage("--question or --answer without --context", "them in the file, or --context");
  if (!asked.texts.empty())
    return replay::sequences_of(replay::parse_text_prompts(replay::read_text_file(asked.texts), asked.texts),
                                tokenizer_of(model, asked.model), asked.decode);
  std::vector<TokenSequence> sequences =
      replay::parse_token_sequences(replay::read_text_file(asked.tokens), asked.tokens);
  if (asked.decode > 0)
    for (TokenSequence& sequence : sequences) sequence.decode = asked.decode;
  return sequences;
}

traces::RecordOptions record_options(const Asked& asked) {
  traces::RecordOptions options;
  options.queries = asked.queries == "all"      ? traces::QueryContent::all
                    : asked.queries == "window" ? traces::QueryContent::window
                    : asked.queries == "sample" ? traces::QueryContent::sample
                                                : traces::QueryContent::none;
  options.query_window = asked.window;
  options.query_sample_share = asked.sample_share;
  options.fsync = asked.fsync == "never"   ? traces::FsyncMode::never
                  : asked.fsync == "chunk" ? traces::FsyncMode::chunk
                                           : traces::FsyncMode::end;
  options.force = asked.force;
  options.anonymous = asked.anonymous;
  options.segments = asked.segments;
  return options;
}

int run(const Asked& asked, Console& console) {
  if (!(asked.temperature >= 0 && asked.temperature <= 1e6) || !(asked.top_p > 0 && asked.top_p <= 1))
    throw usage(fmt::format("--temperature {} --top-p {}", asked.temperature, asked.top_p),
                "a temperature of 0 or more and a top-p in (0, 1]");
  if (!(asked.sample_share > 0 && asked.sample_share <= 1))
    throw usage(fmt::format("--sample-share {}", asked.sample_share), "a share in (0, 1]");
  replay::resolve_device(asked.device);  // before anything long happens
  const traces::ModelFolder model = traces::read_model_folder(asked.model);
  replay::RecordJob job;
  job.model = &model;
  job.sequences = what_to_record(asked, model);
  job.out = asked.out;
  job.options = record_options(asked);
  job.sampling = {.temperature = static_cast<float>(asked.temperature),
                  .top_p = static_cast<float>(asked.top_p),
                  .top_k = asked.top_k,
                  .seed = static_cast<std::uint64_t>(asked.seed)};
  job.chunk = asked.chunk;
  job.device = asked.device;
  job.arithmetic = asked.arithmetic == "bf16" ? DType::bf16 : DType::f32;
  if (asked.dtype != "run") job.stored = dtype_from_name(asked.dtype);
  job.streaming = asked.streaming;
  job.spool_bytes = asked.spool_mib << 20;
  if (!asked.probes.empty()) {
    job.probes = replay::parse_probes(asked.probes);
    if (job.probes.repeat || job.probes.episode) job.probes.text = replay::probe_text(tokenizer_of(model, asked.model));
  }
  job.on_full = replay::on_full_from_name(asked.on_full);
  job.extras = replay::parse_stream_extras(asked.also);
  job.provenance = command_provenance(asked.anonymous);
  if (const char* kind = traces::network_file_system(asked.out))
    console.warn(
        fmt::format("{} lies on {}: recorded into closed segment files, joined at the end; a kill costs what came "
                    "after the last one",
                    asked.out, kind));
  const auto began = std::chrono::steady_clock::now();
  const replay::RecordOutcome outcome = replay::record(job, console.progress(), console.cancel());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  console.end_progress();

  if (!outcome.fallback.empty()) console.warn(outcome.fallback + "\nrecorded on the CPU instead");
  for (const std::string& line : outcome.left_out) console.warn("not recorded: " + line);
  if (outcome.spool_waits > 0)
    console.note(fmt::format("the run waited {} times for room in the spool, {:.1f} s in all", outcome.spool_waits,
                             outcome.spool_waited_ms / 1000));
  if (console.json()) {
    json::object body;
    body["file"] = asked.out;
    body["device"] = outcome.device;
    if (!outcome.fallback.empty()) body["fallback"] = outcome.fallback;
    body["left_out"] = json::array(outcome.left_out.begin(), outcome.left_out.end());
    body["sequences"] = job.sequences.size();
    body["rows"] = outcome.rows;
    body["probe_tokens"] = outcome.probe_tokens;
    json::array generated;
    for (const auto& ids : outcome.generated) generated.push_back(json::array(ids.begin(), ids.end()));
    body["generated"] = std::move(generated);
    console.document("record", std::move(body));
    return 0;
  }
  if (asked.decode > 0 && model.tokenizer)
    for (std::size_t s = 0; s < outcome.generated.size(); ++s)
      if (!outcome.generated[s].empty())
        console.data(fmt::format("[{}] {}\n", s, model.tokenizer->decode(outcome.generated[s])));
  if (outcome.probe_tokens > 0)
    console.note(fmt::format("passes over the context once more: {} tokens beside the {} recorded",
                             outcome.probe_tokens, outcome.rows));
  console.note(fmt::format("recorded {} tokens of {} sequences on {} in {:.1f} s: {}", outcome.rows,
                           job.sequences.size(), outcome.device, seconds, asked.out));
  return 0;
}

Action declare(Options& options) {
  auto asked = std::make_shared<Asked>();
  options.text("--model", asked->model, "folder with config.json, *.safetensors, tokenizer.json", Need::required);
  options.text("-o,--out", asked->out, "the trace to write", Need::required);
  options.text("--prompt", asked->prompt, "a text file: all of it is context");
  options.text("--context", asked->context, "a text file, with questions on it:");
  options.texts("--question", asked->questions, "a text file; several make forks of one context");
  options.texts("--answer", asked->answers, "a text file for each question, fed as if the model had said it");
  options.text("--texts", asked->texts, "a JSON file of contexts with marked spans, questions and answers");
  options.text("--tokens", asked->tokens, "a JSON file of token ids with segments and spans");
  options.integer("--decode", asked->decode, "tokens to generate after each prompt");
  options.number("--temperature", asked->temperature, "0 = greedy");
  options.number("--top-p", asked->top_p, "sample from the likeliest tokens of this much mass");
  options.integer("--top-k", asked->top_k, "sample from the k likeliest tokens; 0 = all");
  options.integer("--seed", asked->seed, "of the sampling");
  options.choice("--queries", asked->queries, {"all", "window", "sample", "none"}, "which queries are stored");
  options.integer("--window", asked->window, "with window and sample: last queries of each segment", 1);
  options.number("--sample-share", asked->sample_share, "with sample: share of the other queries");
  options.text("--probes", asked->probes,
               "read each context once more for KVzip and its kin: repeat[=tokens a part], reread, episode[=episodes]");
  options.text("--device", asked->device, "auto, cpu or cuda:N");
  options.choice("--arithmetic", asked->arithmetic, {"f32", "bf16"}, "on a CUDA device; the CPU computes in f32");
  options.choice("--dtype", asked->dtype, {"run", "f32", "bf16", "f16"},
                 "what K, V and Q are stored in; run = what the run computes in");
  options.flag(
      "--streaming", asked->streaming,
      "on a CUDA device: never stop the run for the file; leaves out maps, query statistics and top-64, see --also");
  options.integer("--spool", asked->spool_mib, "with --streaming: MiB of host memory between run and file", 1);
  options.text("--also", asked->also, "with --streaming, computed on the device besides: maps,statistics,top64");
  options.choice("--on-full", asked->on_full, {"block", "drop", "shrink"},
                 "with --streaming, when that is full: wait; lose queries and LSE of whole steps; keep fewer queries");
  options.integer("--chunk", asked->chunk, "tokens fed at once in prefill", 1);
  options.choice("--fsync", asked->fsync, {"never", "chunk", "end"}, "when the disk is told to keep it");
  options.flag("--segments", asked->segments, "closed segment files on the way, as on NFS; joined at the end");
  options.flag("--force", asked->force, "replace an existing trace");
  options.flag("--anonymous", asked->anonymous, "no host, user, paths or command in the file");
  return [asked](Console& console) { return run(*asked, console); };
}

}  // namespace

namespace rows {
extern const Command record;
const Command record{
    .name = "record",
    .place = 10,
    .summary = "run a model on prompts and record its attention into a trace",
    .text =
        "While it runs the trace is called NAME.part; a killed recording leaves that, readable up to the last commit.",
    .examples =
        {"kvgrind record --model traces/examples/tiny-3m --texts traces/examples/prompts/needle.json -o run.kvt",
         "kvgrind record --model traces/examples/tiny-3m --context traces/examples/prompts/single.context.txt "
         "--question traces/examples/prompts/single.question1.txt --answer "
         "traces/examples/prompts/single.answer1.txt -o one.kvt",
         "kvgrind record --model traces/examples/tiny-3m --prompt traces/examples/prompts/single.context.txt "
         "--decode 16 --temperature 0.8 --top-p 0.9 --seed 7 --queries window -o story.kvt"},
    .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
