// Files, mappings, memory and floating-point modes, on a real file system: errors state the reason, and
// failed operations leave no files.
#include "../support/float_mode.h"
#include "../support/skip.h"

#include "../../tensor/os.h"

#include <doctest/doctest.h>

#include <cfenv>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace ds;
namespace fs = std::filesystem;

namespace {

struct folder {  // a directory that is removed with its contents
    fs::path path;
    folder() {
        std::string name = (fs::temp_directory_path() / "deepseek-test-XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path = name;
    }
    ~folder() {
        std::error_code ignored;
        fs::remove_all(path, ignored);
    }
    std::string operator/(const char *name) const { return (path / name).string(); }
    size_t entries() const {
        return static_cast<size_t>(std::distance(fs::directory_iterator(path), fs::directory_iterator()));
    }
};

void put(const std::string &path, const std::string &text) { std::ofstream(path, std::ios::binary) << text; }
std::string get(const std::string &path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}
std::string text_of(const os::mapping &m) { return {reinterpret_cast<const char *>(m.data()), m.size()}; }

template <class action>
void check_throws(status code, std::initializer_list<std::string> parts, const action &f) {
    try {
        f();
        CHECK_MESSAGE(false, "nothing was thrown");
    } catch (const error &e) {
        CAPTURE(e.text);
        CHECK(e.code == code);
        for (const std::string &part : parts) CHECK(e.text.find(part) != std::string::npos);
    }
}

struct descriptor {
    int fd;
    ~descriptor() {
        if (fd >= 0) close(fd);
    }
};

// Limits the size of files to `bytes` while it exists: a test's stand-in for a full disk.
struct small_disk {
    rlimit before;
    void (*handler)(int);
    explicit small_disk(rlim_t bytes) : handler(signal(SIGXFSZ, SIG_IGN)) {
        REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
        rlimit now = before;
        now.rlim_cur = bytes;
        REQUIRE(setrlimit(RLIMIT_FSIZE, &now) == 0);
    }
    ~small_disk() {
        setrlimit(RLIMIT_FSIZE, &before);
        signal(SIGXFSZ, handler);
    }
};

}  // namespace

TEST_CASE("os: a file mapped, read and borrowed") {
    const folder d;
    const std::string path = d / "file", text = std::string("some\0bytes", 10) + std::string(100000, 'x');
    put(path, text);
    CHECK(text_of(os::mapping::map_file(path)) == text);
    CHECK(text_of(os::mapping::read_file(path, host(), {})) == text);
    CHECK(text_of(os::mapping::borrow(text.data(), text.size())) == text);

    const descriptor f{open(path.c_str(), O_RDONLY)};
    REQUIRE(lseek(f.fd, 5, SEEK_SET) == 5);
    CHECK(text_of(os::mapping::map_fd(f.fd, "name")) == text);
    CHECK(text_of(os::mapping::read_fd(f.fd, "name", host(), {})) == text);
    CHECK(lseek(f.fd, 0, SEEK_CUR) == 5);  // the caller's descriptor keeps its position
}

TEST_CASE("os: a mapping outlives its file's name, and moves") {
    const folder d;
    const std::string path = d / "file";
    put(path, "bytes");
    os::mapping a = os::mapping::map_file(path), b = os::mapping::read_file(path, host(), {});
    fs::remove(path);
    os::mapping c = std::move(a);
    CHECK(text_of(c) == "bytes");
    CHECK(a.size() == 0);
    c = std::move(b);
    CHECK(text_of(c) == "bytes");
    c = os::mapping();
    CHECK(c.data() == nullptr);
}

TEST_CASE("os: forgotten pages are read again") {
    const folder d;
    const std::string path = d / "file", text(1 << 20, 'y');
    put(path, text);
    const os::mapping m = os::mapping::map_file(path), r = os::mapping::read_file(path, host(), {});
    m.forget(0, m.size());
    m.forget(5000, 3);
    m.forget(m.size(), 0);
    r.forget(0, r.size());  // memory that holds a read file cannot be dropped by the system
    CHECK(text_of(m) == text);
    CHECK(text_of(r) == text);
}

TEST_CASE("os: an empty file has no bytes") {
    const folder d;
    put(d / "empty", "");
    CHECK(os::mapping::map_file(d / "empty").size() == 0);
    CHECK(os::mapping::read_file(d / "empty", host(), {}).size() == 0);
}

TEST_CASE("os: unreadable files are refused with name and reason") {
    const folder d;
    REQUIRE(mkfifo((d / "pipe").c_str(), 0600) == 0);
    put(d / "file", "x");
    for (const bool map : {false, true}) {
        const auto open_it = [&](const std::string &path) {
            map ? os::mapping::map_file(path) : os::mapping::read_file(path, host(), {});
        };
        check_throws(status::io, {d / "absent", "No such file"}, [&] { open_it(d / "absent"); });
        check_throws(status::io, {d / "file/below", "Not a directory"}, [&] { open_it(d / "file/below"); });
        check_throws(status::io, {d.path.string(), "not a regular file"}, [&] { open_it(d.path.string()); });
        // without waiting for a writer
        check_throws(status::io, {d / "pipe", "not a regular file"}, [&] { open_it(d / "pipe"); });
        check_throws(status::io, {"/dev/zero", "not a regular file"}, [&] { open_it("/dev/zero"); });
        check_throws(status::io, {": cannot open"}, [&] { open_it(""); });
    }
    check_throws(status::io, {"some name", "Bad file descriptor"},
                 [] { os::mapping::map_fd(-1, "some name"); });
    check_throws(status::io, {"some name", "Bad file descriptor"},
                 [] { os::mapping::read_fd(-1, "some name", host(), {}); });
    const descriptor writer{open((d / "file").c_str(), O_WRONLY)};
    check_throws(status::io, {"some name", "Permission denied"},
                 [&] { os::mapping::map_fd(writer.fd, "some name"); });
    check_throws(status::io, {"some name", "Bad file descriptor"},
                 [&] { os::mapping::read_fd(writer.fd, "some name", host(), {}); });
}

TEST_CASE("os: reading reports progress, can be stopped, and notices a file that shrinks") {
    const folder d;
    const std::string path = d / "big";
    constexpr size_t size = (20 << 20) + 123;
    put(path, "");
    fs::resize_file(path, size);
    uint64_t last = 0;
    int calls = 0;
    const os::mapping m = os::mapping::read_file(path, host(), [&](uint64_t done, uint64_t total) {
        CHECK(total == size);
        CHECK(done > last);
        last = done;
        return ++calls > 0;
    });
    CHECK(m.size() == size);
    CHECK(last == size);
    CHECK(calls > 1);

    check_throws(status::cancelled, {path},
                 [&] { os::mapping::read_file(path, host(), [](uint64_t, uint64_t) { return false; }); });
    check_throws(status::io, {path, "ends after", std::to_string(size)}, [&] {
        os::mapping::read_file(path, host(), [&](uint64_t, uint64_t) {
            fs::resize_file(path, 1000);
            return true;
        });
    });
}

TEST_CASE("os: reading with an allocator that fails") {
    const folder d;
    put(d / "file", "bytes");
    host h;
    h.alloc_fn = [](void *, size_t, size_t) -> void * { return nullptr; };
    check_throws(status::memory, {"5 bytes"}, [&] { os::mapping::read_file(d / "file", h, {}); });
}

TEST_CASE("os: an output file appears when it is committed, whole") {
    const folder d;
    const std::string path = d / "out";
    put(path, "old");
    const std::string big(3 << 20, 'b');
    {
        os::output_file f(path);
        f.write("head", 4);
        f.write("", 0);
        f.write(big.data(), big.size());
        f.write("tail", 4);
        CHECK(f.size() == big.size() + 8);
        f.write_at(1, "EA", 2);
        f.write_at(4 + big.size(), "TAIL", 4);
        f.write("end", 3);
        CHECK(f.size() == big.size() + 11);
        CHECK(get(path) == "old");
        CHECK(d.entries() == 2);
        f.commit();
        CHECK(get(path) == "hEAd" + big + "TAILend");
        CHECK(d.entries() == 1);
    }
    CHECK(d.entries() == 1);
    const mode_t mask = umask(0);
    umask(mask);
    struct stat s;
    REQUIRE(stat(path.c_str(), &s) == 0);
    CHECK((s.st_mode & 0777) == (0666 & ~mask));  // the usual mode of a new file, not a temporary file's 0600
}

TEST_CASE("os: an output file that is not committed leaves nothing") {
    const folder d;
    {
        os::output_file f(d / "out");
        f.write("x", 1);
        CHECK(d.entries() == 1);
    }
    CHECK(d.entries() == 0);
    put(d / "out", "old");
    { os::output_file f(d / "out"); }
    CHECK(get(d / "out") == "old");
    CHECK(d.entries() == 1);
}

TEST_CASE("os: two writers of one path do not interfere") {
    const folder d;
    os::output_file a(d / "out"), b(d / "out");
    a.write("a", 1);
    b.write("bb", 2);
    b.commit();
    CHECK(get(d / "out") == "bb");
    a.commit();
    CHECK(get(d / "out") == "a");
    CHECK(d.entries() == 1);
}

TEST_CASE("os: a full disk is reported, and no file is left") {
    const folder d;
    const std::string path = d / "out", big(4 << 20, 'x');
    put(path, "old");
    const small_disk disk(1 << 20);
    check_throws(status::io, {path, "cannot write", strerror(EFBIG)}, [&] {
        os::output_file f(path);
        f.write(big.data(), big.size());
    });
    // buffered bytes reach the full disk only at commit
    check_throws(status::io, {path, "cannot write"}, [&] {
        os::output_file f(path);
        f.write(big.data(), (1 << 20) - 10);
        f.write(big.data(), 500);
        f.write(big.data(), 500);
        f.commit();
    });
    check_throws(status::io, {path, "cannot write"}, [&] {
        os::output_file f(path);
        for (int i = 0; i < 4096; ++i) f.write(big.data(), 1024);
    });
    CHECK(get(path) == "old");
    CHECK(d.entries() == 1);
}

TEST_CASE("os: paths where no file can be written") {
    const folder d;
    put(d / "file", "x");
    fs::create_directory(d / "folder");
    check_throws(status::io, {d / "absent/out", "cannot create", "No such file"},
                 [&] { os::output_file f(d / "absent/out"); });
    check_throws(status::io, {d / "file/out", "Not a directory"}, [&] { os::output_file f(d / "file/out"); });
    check_throws(status::io, {d / "folder", "not a regular file"}, [&] { os::output_file f(d / "folder"); });
    // A rename would replace the device itself.
    check_throws(status::io, {"/dev/full", "not a regular file"}, [] { os::output_file f("/dev/full"); });
    check_throws(status::io, {"cannot create"},
                 [&] { os::output_file f((d.path / std::string(300, 'n')).string()); });
    CHECK(d.entries() == 2);
    // The directory is removed while the file is being written, so the rename fails.
    os::output_file f(d / "folder/out");
    f.write("x", 1);
    fs::remove_all(d / "folder");
    check_throws(status::io, {d / "folder/out", "cannot rename"}, [&] { f.commit(); });
}

TEST_CASE("os: files without permission to read, and folders without permission to write, are refused") {
    if (geteuid() == 0) return ds::test::skip("root may read and write everything");
    const folder d;
    put(d / "file", "x");
    fs::create_directory(d / "folder");
    fs::permissions(d / "file", fs::perms::none);
    check_throws(status::io, {d / "file", "Permission denied"}, [&] { os::mapping::map_file(d / "file"); });
    check_throws(status::io, {d / "file", "Permission denied"},
                 [&] { os::mapping::read_file(d / "file", host(), {}); });
    fs::permissions(d / "file", fs::perms::owner_all);
    fs::permissions(d / "folder", fs::perms::owner_read | fs::perms::owner_exec);
    check_throws(status::io, {"folder/out", "Permission denied"},
                 [&] { os::output_file f(d / "folder/out"); });
    fs::permissions(d / "folder", fs::perms::owner_all);
}

TEST_CASE("os: a link is written through, and stays one") {
    const folder d;
    fs::create_directory(d / "a");
    fs::create_directory(d / "b");
    put(d / "a/file", "old");
    fs::create_symlink("../a/file", d / "b/near");  // relative to the link's own directory
    fs::create_symlink(d / "b/near", d / "far");
    fs::create_symlink("a/none yet", d / "new");
    const auto write = [](const std::string &path, const std::string &text) {
        os::output_file f(path);
        f.write(text.data(), text.size());
        f.commit();
    };
    write(d / "far", "one");
    CHECK(get(d / "a/file") == "one");
    { os::output_file f(d / "far"); }
    CHECK(get(d / "a/file") == "one");
    write(d / "new", "two");
    CHECK(get(d / "a/none yet") == "two");
    std::vector<std::unique_ptr<os::output_file>> both;
    for (const char *const name : {"b/near", "new"}) {
        both.push_back(std::make_unique<os::output_file>(d / name));
        both.back()->write(name, 3);
    }
    os::output_file::commit_all(both);
    CHECK(get(d / "a/file") == "b/n");
    CHECK(get(d / "a/none yet") == "new");
    for (const char *const name : {"b/near", "far", "new"}) CHECK(fs::is_symlink(d / name));
    CHECK(d.entries() == 4);
    fs::create_symlink("loop", d / "loop");
    check_throws(status::io, {d / "loop", "cannot create", strerror(ELOOP)}, [&] { write(d / "loop", "x"); });
    // A hard link to the old file keeps its content.
    fs::create_hard_link(d / "a/file", d / "a/hard");
    write(d / "a/file", "three");
    CHECK(get(d / "a/hard") == "b/n");
}

TEST_CASE("os: a path without a directory is the current one") {
    const folder d;
    const fs::path before = fs::current_path();
    fs::current_path(d.path);
    try {
        os::output_file f("plain");
        f.write("here", 4);
        f.commit();
    } catch (const error &e) {
        CHECK_MESSAGE(false, e.text);
    }
    fs::current_path(before);
    CHECK(get(d / "plain") == "here");
}

TEST_CASE("os: reserved memory grows without moving, and starts as zeros") {
    os::reserved_memory m(size_t(1) << 36);  // 64 GiB of addresses, of which little is used
    CHECK(m.size() == size_t(1) << 36);
    CHECK(m.committed() == 0);
    m.commit(10);
    CHECK(m.committed() >= 10);
    auto *bytes = static_cast<uint8_t *>(m.data());
    CHECK(bytes[9] == 0);
    bytes[9] = 7;
    m.commit(1 << 20);
    m.commit(100);  // never shrinks
    CHECK(m.committed() >= 1 << 20);
    CHECK(m.data() == bytes);
    CHECK(bytes[9] == 7);
    CHECK(bytes[(1 << 20) - 1] == 0);
    bytes[(1 << 20) - 1] = 1;
    os::reserved_memory n = std::move(m);
    CHECK(m.data() == nullptr);
    CHECK(n.data() == bytes);
    n = os::reserved_memory();
    CHECK(n.size() == 0);
    check_throws(status::memory, {"no address space"}, [] { os::reserved_memory r(SIZE_MAX / 2); });
    os::reserved_memory none(0);
    none.commit(0);
    CHECK(none.data() == nullptr);
}

TEST_CASE("os: processors and clock") {
    cpu_set_t before, one;
    REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
    CHECK(os::processor_count() == static_cast<unsigned>(CPU_COUNT(&before)));
    int first = 0;
    while (!CPU_ISSET(first, &before)) ++first;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(os::processor_count() == 1);  // those that this process may use
    sched_setaffinity(0, sizeof before, &before);

    const double a = os::seconds();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    CHECK(os::seconds() - a >= 0.002);
}

TEST_CASE("os: tile registers are available only where the processor has them, and asking again is allowed") {
    const std::string flags = get("/proc/cpuinfo") + " ";
    const bool there = flags.find(" amx_tile ") != std::string::npos, allowed = os::allow_tiles();
    if (!there) CHECK_FALSE(allowed);
    CHECK(os::allow_tiles() == allowed);
    bool in_thread = !allowed;
    std::thread([&] { in_thread = os::allow_tiles(); }).join();
    CHECK(in_thread == allowed);
}

TEST_CASE("os: the floating-point mode is the default inside and the host's outside") {
    volatile float one = 1.0f, three = 3.0f;
    const float nearest = one / three;
    fenv_t before;
    REQUIRE(fegetenv(&before) == 0);
    REQUIRE(fesetround(FE_DOWNWARD) == 0);
    const float downward = one / three;
    float inside = 0;
    {
        const os::default_float_mode mode;
        inside = one / three;
    }
    const float after = one / three;
    const int rounding = fegetround();
    fesetenv(&before);
    CHECK(inside == nearest);
    CHECK(downward != nearest);  // the float nearest to 1/3 is above it
    CHECK(after == downward);
    CHECK(rounding == FE_DOWNWARD);
}

TEST_CASE("os: flush-to-zero and traps of a host have no effect inside") {
    const uint64_t before = ds::test::float_control();
    ds::test::set_float_control(before | ds::test::flushing);
    volatile float tiny = 1e-38f, half = 0.5f, outside = tiny * half, inside;
    {
        const os::default_float_mode mode;
        inside = tiny * half;
    }
    const uint64_t after = ds::test::float_control();
    ds::test::set_float_control(before);
    CHECK(outside == 0.0f);
    CHECK(inside > 0.0f);
    CHECK(after == (before | ds::test::flushing));
}
