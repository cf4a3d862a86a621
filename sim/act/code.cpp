// Slots are stored in fewer bits. of=kept: what is kept is coded, the rest dropped; of=rest: what is kept stays exact,
// the rest is coded instead of dropped. A slot that is coded stays coded. Keys are coded as the cache holds them
// (post-RoPE). format=e4m3 stores eight-bit floats without any scale; bits, group and axis are then not used.
#include "sim/codec/affine_codec.h"
#include "sim/codec/fp8_codec.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::acts {
namespace {

void act(const ActContext& context, GroupPlan& plan) {
  const std::string& axis = context.params.word("axis");
  const auto affine = [&](AffineCodec::Axis along) {
    plan.codecs.push_back(std::make_shared<AffineCodec>(static_cast<int>(context.params.integer("bits")),
                                                        context.params.integer("group"), along));
  };
  const bool fp8 = context.params.word("format") == "e4m3", apart = !fp8 && axis == "key_channel";
  if (fp8)
    plan.codecs.push_back(std::make_shared<Fp8Codec>());
  else
    affine(axis == "token" ? AffineCodec::Axis::token : AffineCodec::Axis::channel);
  if (apart) affine(AffineCodec::Axis::token);  // the values' own
  const bool rest = context.params.word("of") == "rest";
  plan.k_codec.assign(plan.keep.size(), -1);
  for (std::size_t i = 0; i < plan.keep.size(); ++i)
    if ((plan.keep[i] != 0) != rest) plan.k_codec[i] = 0;
  plan.v_codec = plan.k_codec;
  if (apart)
    for (auto& codec : plan.v_codec) codec += codec == 0;
  if (rest) plan.keep.assign(plan.keep.size(), 1);
}

}  // namespace

extern const ActRow code;
const ActRow code = {
    .name = "code",
    .source = "kvgrind",
    .help = "stored in fewer bits, with a minimum and a step for each group of values",
    .params = {{"bits", ParamType::integer, "4", "bits of a value", 1, 8},
               {"group", ParamType::integer, "32", "values that share minimum and step", 1, 1e6},
               {"axis",
                ParamType::word,
                "token",
                "groups within a token, along tokens within a channel, or along tokens for keys and within for values",
                -1e300,
                1e300,
                {"token", "channel", "key_channel"}},
               {"of",
                ParamType::word,
                "kept",
                "kept: code what is kept; rest: code the rest instead of dropping it",
                -1e300,
                1e300,
                {"kept", "rest"}},
               {"format",
                ParamType::word,
                "affine",
                "affine: whole steps from a minimum; e4m3: eight-bit floats",
                -1e300,
                1e300,
                {"affine", "e4m3"}},
               {"share", ParamType::number, "0",
                "within classes: share of the kept slots, best first; 0 = all that is left", 0, 1}},
    .needs = {},
    .act = act,
};

}  // namespace kvgrind::sim::acts
