// An engine set-up with a fit that holds a figure for every query head and one for every layer.
#pragma once
#include "tests/support/t8.h"

namespace kvgrind::tests {

inline EngineSetup head_and_layer_fit(const char* method, const ModelCard& card, std::vector<float> head,
                                      std::vector<float> layer, const char* amount) {
  Calibration fitted;
  fitted.method = method;
  fitted.model = calibration_model(card);
  fitted.tensors["head"] = {{card.layers, card.query_heads}, std::move(head)};
  fitted.tensors["layer"] = {{card.layers}, std::move(layer)};
  EngineSetup setup{.amount = sim::parse_amount(amount)};
  setup.calibration = std::make_shared<const Calibration>(fitted);
  return setup;
}

}  // namespace kvgrind::tests
