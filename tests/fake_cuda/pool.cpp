// flashvsr::Pool as functions, for tests/test_pool.py.
#include "pool.hpp"

using flashvsr::Pool;

extern "C" {
Pool* pool_open(int device) try { return new Pool(device); } catch (const std::exception&) { return nullptr; }
void pool_close(Pool* pool) { delete pool; }
void* pool_take(Pool* pool, std::size_t bytes) try { return pool->take(bytes); } catch (const std::exception&) { return nullptr; }
void* pool_keep(Pool* pool, std::size_t bytes) try { return pool->keep(bytes); } catch (const std::exception&) { return nullptr; }
int pool_give(Pool* pool, void* memory) try { return pool->give(memory), 0; } catch (const std::exception&) { return 1; }
std::size_t pool_shortage(Pool* pool) { return pool->shortage(); }
void pool_trim(Pool* pool) { pool->trim(); }
std::size_t pool_mapped(Pool* pool) { return pool->mapped(); }
}
