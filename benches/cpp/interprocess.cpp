// The map table in C++: boost::unordered_map in a managed_shared_memory, behind one interprocess_mutex.
// usage: bench-interprocess u64|str ENTRIES PROCESSES INSERT_MS PHASE_MS
// Prints nanoseconds per operation as each process sees it: insert into empty; get, 95/5, 50/50 uniform; the same by zipf.
#include <array>
#include <atomic>
#include <boost/interprocess/allocators/allocator.hpp>
#include <boost/interprocess/managed_shared_memory.hpp>
#include <boost/interprocess/sync/interprocess_mutex.hpp>
#include <boost/interprocess/sync/scoped_lock.hpp>
#include <boost/unordered_map.hpp>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace bi = boost::interprocess;
using std::chrono::steady_clock;

static uint64_t splitmix(uint64_t n) {
    uint64_t z = (n + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

struct Text { std::array<char, 16> a; bool operator==(const Text &o) const { return a == o.a; } };
struct Hundred { std::array<char, 100> a; bool operator==(const Hundred &o) const { return a == o.a; } };
static std::size_t hash_value(const Text &t) {
    uint64_t x, y;
    std::memcpy(&x, t.a.data(), 8);
    std::memcpy(&y, t.a.data() + 8, 8);
    return splitmix(x ^ splitmix(y));
}
static void make(uint64_t n, uint64_t &out) { out = splitmix(n); }
static void make(uint64_t n, Text &out) {
    for (int i = 0; i < 16; i++) out.a[i] = "0123456789abcdef"[splitmix(n) >> (4 * i) & 15];
}
static void make(uint64_t n, Hundred &out) {
    out.a.fill('v');
    uint64_t word = splitmix(n);
    std::memcpy(out.a.data(), &word, 8);
}

constexpr int PHASES = 7;
struct Control {
    std::atomic<uint32_t> ready[PHASES], go[PHASES], stop[PHASES], done[PHASES];
    double cost[PHASES][8];
};

template <class K, class V> int run(uint64_t n, int parties, int insert_ms, int phase_ms) {
    using Entry = std::pair<const K, V>;
    using Allocator = bi::allocator<Entry, bi::managed_shared_memory::segment_manager>;
    using Map = boost::unordered_map<K, V, boost::hash<K>, std::equal_to<K>, Allocator>;
    struct Shared {
        bi::interprocess_mutex mutex;
        Map map;
        explicit Shared(const Allocator &a) : map(16, boost::hash<K>(), std::equal_to<K>(), a) {}
    };
    std::string name = "map-bench-boost-" + std::to_string(getpid());
    struct Remove {
        std::string name;
        ~Remove() { bi::shared_memory_object::remove(name.c_str()); }
    } remove{name};
    bi::managed_shared_memory memory(bi::create_only, name.c_str(), 64 * 1024 * 1024 + n * (sizeof(Entry) + 64));
    Shared &shared = *memory.construct<Shared>("map")(Allocator(memory.get_segment_manager()));
    auto *control = static_cast<Control *>(
        mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));

    // The same kind of sequences as on the other side: uniform, and zipf 0.99 (Gray et al.).
    std::vector<std::pair<K, uint64_t>> order[2];
    uint64_t length = std::max<uint64_t>(n, 200000), state = 1;
    auto next = [&] { return splitmix(++state ^ 0x5eed00000000ull); };
    auto keyed = [](uint64_t i) { std::pair<K, uint64_t> p; make(i, p.first); p.second = i; return p; };
    for (uint64_t i = 0; i < length; i++) order[0].push_back(keyed(next() % n));
    const double theta = 0.99;
    double zeta = 0, zeta2 = 1 + std::pow(0.5, theta);
    for (uint64_t i = 1; i <= n; i++) zeta += 1 / std::pow(double(i), theta);
    double alpha = 1 / (1 - theta), eta = (1 - std::pow(2.0 / n, 1 - theta)) / (1 - zeta2 / zeta);
    for (uint64_t i = 0; i < length; i++) {
        double u = double(next() >> 11) / double(1ull << 53), uz = u * zeta;
        uint64_t rank = uz < 1 ? 0 : uz < 1 + std::pow(0.5, theta) ? 1 : uint64_t(n * std::pow(eta * u - eta + 1, alpha));
        order[1].push_back(keyed(std::min(rank, n - 1)));
    }

    auto get = [&](const K &key, uint64_t i) {
        V expected;
        make(i, expected);
        bi::scoped_lock<bi::interprocess_mutex> lock(shared.mutex);
        auto found = shared.map.find(key);
        return found != shared.map.end() && found->second == expected;
    };
    auto put = [&](const K &key, uint64_t i) {
        V value;
        make(i, value);
        bi::scoped_lock<bi::interprocess_mutex> lock(shared.mutex);
        shared.map.insert_or_assign(key, value);
    };
    auto phase = [&](int p, int seat, auto work) {
        control->ready[p]++;
        while (!control->go[p]) usleep(0);
        auto begin = steady_clock::now();
        uint64_t ops = work(control->stop[p]);
        double ns = std::chrono::duration<double, std::nano>(steady_clock::now() - begin).count();
        control->cost[p][seat] = ns / double(ops);
        control->done[p]++;
    };
    std::vector<pid_t> children;
    for (int seat = 0; seat < parties; seat++) {
        pid_t pid = fork();
        if (pid) {
            children.push_back(pid);
            continue;
        }
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        uint64_t inserted = 0;
        phase(0, seat, [&](std::atomic<uint32_t> &stop) {
            uint64_t done = 0;
            for (uint64_t i = seat; i < n && (done % 64 || !stop); i += parties, done++) put(keyed(i).first, i);
            return inserted = done;
        });
        for (uint64_t i = seat + inserted * parties; i < n; i += parties) put(keyed(i).first, i); // what time did not allow
        bool right = true;
        for (int p = 1; p < PHASES; p++)
            phase(p, seat, [&](std::atomic<uint32_t> &stop) {
                auto &sequence = order[p < 4 ? 0 : 1];
                uint64_t done = 0, at = seat * sequence.size() / 3;
                uint64_t below = uint64_t(std::array{0, 5, 50}[(p - 1) % 3]) * (UINT64_MAX / 100);
                while (!stop)
                    for (int k = 0; k < 64; k++) {
                        auto &[key, i] = sequence[at];
                        if (below && done * 0x9e3779b97f4a7c15ull < below) put(key, i);
                        else right &= get(key, i);
                        done++;
                        if (++at == sequence.size()) at = 0;
                    }
                return done;
            });
        _exit(right ? 0 : 1);
    }
    for (int p = 0; p < PHASES; p++) {
        while (control->ready[p] < uint32_t(parties)) usleep(100);
        control->go[p] = 1;
        auto limit = steady_clock::now() + std::chrono::milliseconds(p ? phase_ms : insert_ms);
        while (control->done[p] < uint32_t(parties) && steady_clock::now() < limit) usleep(100);
        control->stop[p] = 1;
    }
    int failed = 0;
    for (pid_t pid : children) {
        int status = 0;
        waitpid(pid, &status, 0);
        failed |= status;
    }
    for (int p = 0; p < PHASES; p++) {
        double sum = 0;
        for (int seat = 0; seat < parties; seat++) sum += control->cost[p][seat];
        std::printf("%f ", sum / parties);
    }
    std::printf("\n");
    return failed != 0;
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    uint64_t n = std::strtoull(argv[2], nullptr, 10);
    int parties = std::atoi(argv[3]), insert_ms = std::atoi(argv[4]), phase_ms = std::atoi(argv[5]);
    if (!n || parties < 1 || parties > 8) return 2;
    bool text = std::string(argv[1]) == "str";
    return text ? run<Text, Hundred>(n, parties, insert_ms, phase_ms) : run<uint64_t, uint64_t>(n, parties, insert_ms, phase_ms);
}
