// Compares the kernels with plain loops in double. It needs no Python, so it can be
// compiled for other machines, and run in an emulator. Prints the instruction set,
// and ends with 1 if a value is wrong.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "interface.h"

namespace {

using Values = std::vector<double>;

std::mt19937 generator(0);

Values draw(int64_t count, double low, double high) {
  std::uniform_real_distribution<double> uniform(low, high);
  Values values(count);
  for (double &value : values) value = float(uniform(generator));
  return values;
}

// Values as the kernels take them: float32, or the upper halves of it.
struct Tensor {
  std::vector<char> bytes;
  bool half;

  Tensor(int64_t count, bool half) : bytes(count * (half ? 2 : 4)), half(half) {}
  Tensor(Values &values, bool half) : Tensor(values.size(), half) {
    for (size_t i = 0; i < values.size(); i++) {
      float value = values[i];
      if (half) {  // those that it can hold, for the loops too
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        bits &= 0xffff0000;
        std::memcpy(&value, &bits, 4);
        values[i] = value;
      }
      // The upper half comes last: all these machines are little-endian.
      std::memcpy(&bytes[i * width()], (char *)&value + 4 - width(), width());
    }
  }
  int64_t width() const { return half ? 2 : 4; }
  double operator[](int64_t i) const {
    float value = 0;
    std::memcpy((char *)&value + 4 - width(), &bytes[i * width()], width());
    return value;
  }
};

struct Layer {
  int64_t B, C, L, G;
  bool half, channels_last, plain;
  Values gamma_c = draw(C, 0.5, 1.5), beta_c = draw(C, -1, 1);
  Values gamma_g = draw(G, 0.5, 1.5), beta_g = draw(G, -1, 1);
  Values mean = draw(C, -1, 1), var = draw(C, 0.5, 1.5);
  double eps = 1e-5;

  int64_t at(int64_t b, int64_t c, int64_t l) const {
    return channels_last ? (b * L + l) * C + c : (b * C + c) * L + l;
  }

  // Visits a channel of all samples, or a group of one.
  void channel(int64_t c, const std::function<void(int64_t)> &visit) const {
    for (int64_t b = 0; b < B; b++)
      for (int64_t l = 0; l < L; l++) visit(at(b, c, l));
  }
  void group(int64_t b, int64_t g, const std::function<void(int64_t)> &visit) const {
    for (int64_t c = g * C / G; c < (g + 1) * C / G; c++)
      for (int64_t l = 0; l < L; l++) visit(at(b, c, l));
  }

  Values forward(const Values &x) const {
    Values y = x;
    for (int64_t c = 0; c < C; c++) {
      double m = 0, v = 0;
      channel(c, [&](int64_t i) { m += x[i] / (B * L); });
      channel(c, [&](int64_t i) { v += (x[i] - m) * (x[i] - m) / (B * L); });
      if (!plain) m = mean[c], v = var[c];
      channel(c, [&](int64_t i) {
        y[i] = gamma_c[c] * (x[i] - m) / std::sqrt(v + eps) + beta_c[c];
      });
    }
    for (int64_t b = 0; b < B; b++)
      for (int64_t g = 0; g < G; g++) {
        const double count = C / G * L;
        double m = 0, v = 0;
        group(b, g, [&](int64_t i) { m += y[i] / count; });
        group(b, g, [&](int64_t i) { v += (y[i] - m) * (y[i] - m) / count; });
        group(b, g, [&](int64_t i) {
          y[i] = gamma_g[g] * (y[i] - m) / std::sqrt(v + eps) + beta_g[g];
        });
      }
    return y;
  }

  // The slope of sum(dy y) along one of the values in `parameter`.
  double slope(double &parameter, const Values &x, const Values &dy) {
    const double here = parameter, step = 1e-5;
    parameter = here + step;
    const Values above = forward(x);
    parameter = here - step;
    const Values below = forward(x);
    parameter = here;
    double sum = 0;
    for (size_t i = 0; i < dy.size(); i++) sum += dy[i] * (above[i] - below[i]);
    return sum / (2 * step);
  }
};

std::vector<float> single(const Values &values) {
  return {values.begin(), values.end()};
}

// The norm of the difference, as a part of the norm.
template <class A>
double error(const A &values, const Values &exact) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < exact.size(); i++) {
    difference += std::pow(values[i] - exact[i], 2);
    norm += std::pow(exact[i], 2);
  }
  return std::sqrt(difference / norm);
}

bool agrees(Layer layer) {
  const int64_t C = layer.C, G = layer.G, count = layer.B * C * layer.L;
  Values x = draw(count, -2, 2), dy = draw(count, -1, 1);
  const Tensor x_given(x, layer.half), dy_given(dy, layer.half);
  const auto gamma_c = single(layer.gamma_c), beta_c = single(layer.beta_c);
  const auto gamma_g = single(layer.gamma_g), beta_g = single(layer.beta_g);
  auto mean = single(layer.mean), var = single(layer.var);
  Values saved(2 * layer.B * C + 2 * C);
  Tensor y(count, layer.half), dx(count, layer.half);
  std::vector<float> d_gamma_c(C), d_beta_c(C), d_gamma_g(G), d_beta_g(G);

  bcn::Forward forward{};
  forward.sizes = {layer.B, C, layer.L, G, layer.half, layer.channels_last};
  forward.weights = {gamma_c.data(), beta_c.data(), gamma_g.data(), beta_g.data(),
                     layer.eps,      layer.eps};
  forward.x = x_given.bytes.data(), forward.y = y.bytes.data();
  forward.exp_mean = mean.data(), forward.exp_var = var.data();
  forward.how = layer.plain ? bcn::PLAIN : bcn::EVALUATION;
  forward.saved = saved.data(), forward.momentum = 0.1;

  bcn::Backward backward{};
  backward.sizes = forward.sizes, backward.weights = forward.weights;
  backward.x = forward.x, backward.dy = dy_given.bytes.data();
  backward.dx = dx.bytes.data(), backward.saved = saved.data();
  backward.d_gamma_c = d_gamma_c.data(), backward.d_beta_c = d_beta_c.data();
  backward.d_gamma_g = d_gamma_g.data(), backward.d_beta_g = d_beta_g.data();
  backward.plain = layer.plain;
  if (bcn_forward(&forward, 1) || bcn_backward(&backward, 1)) return false;

  const double rounding = layer.half ? 5e-3 : 1e-6;
  bool good = error(y, layer.forward(x)) < rounding;
  const auto check = [&](Values &along, const auto &gradient, double limit) {
    Values exact;
    for (double &value : along) exact.push_back(layer.slope(value, x, dy));
    good = good && error(gradient, exact) < limit;
  };
  check(x, dx, rounding);
  check(layer.gamma_c, d_gamma_c, 1e-5);
  check(layer.beta_c, d_beta_c, 1e-5);
  check(layer.gamma_g, d_gamma_g, 1e-5);
  check(layer.beta_g, d_beta_g, 1e-5);
  return good;
}

}  // namespace

int main() {
  std::printf("%s\n", bcn_instructions());
  bool good = true;
  // Positions that fill no vector, and that fill some but for a rest.
  for (int64_t positions : {3, 37})
    for (int options = 0; options < 8; options++) {
      const bool half = options & 1, last = options & 2, plain = options & 4;
      if (agrees({2, 6, positions, 2, half, last, plain})) continue;
      std::printf("wrong: L %d, bfloat16 %d, channels last %d, plain %d\n",
                  int(positions), half, last, plain);
      good = false;
    }
  return good ? 0 : 1;
}
