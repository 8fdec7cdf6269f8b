// Two threads that write one number without order: what run.sh must see reported, or it sees nothing.
#include <thread>

extern "C" int race() {
  int number = 0;
  const auto write = [&number] {
    for (int i = 0; i < 1000; ++i) number += i;
  };
  std::thread other(write);
  write();
  other.join();
  return number;
}
