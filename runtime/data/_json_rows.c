/* Many alike rows of one JSON document to columns, without an object for each value.
 *
 * It takes what clients send nearly always and declines all else, which Python then reads from the beginning: another
 * key or order of keys, an escape, a boolean, a nested value, an integer that no double holds. So it never says what is
 * wrong with a document, and what it takes is what `json` would have made of it.
 *
 * Reading stays within the document: a bytes object ends with a NUL, which no step accepts, and nothing is stepped over
 * that was not looked at. tests/unit/test_data_json_rows.py compares it with orjson on documents of every kind.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef unsigned __int128 uint128;

#define EXACT ((uint64_t)1 << 53) /* below, a double holds every integer */
#define MAX_DIGITS 19             /* of which a uint64 holds any number */
#define MAX_TOKEN 64

static const double POWERS[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
                                1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
static const uint64_t TENS[] = {1u, 10u, 100u, 1000u, 10000u, 100000u, 1000000u, 10000000u, 100000000u, 1000000000u,
                                10000000000u, 100000000000u, 1000000000000u, 10000000000000u, 100000000000000u,
                                1000000000000000u, 10000000000000000u, 100000000000000000u, 1000000000000000000u,
                                10000000000000000000u};

enum kind { NUMBER = 'n', TEXT = 't', IGNORED = 'i' };

typedef struct {
    enum kind kind;
    const char *key; /* as it stands in the document, quotes included */
    Py_ssize_t key_length;
    PyObject *values;  /* NUMBER: bytes of doubles */
    uint32_t *places;  /* TEXT: of each row where it begins, and its length */
    uint64_t num_bytes; /* TEXT */
    uint8_t *valid;    /* a bit for each row */
    Py_ssize_t num_nulls;
} Column;

typedef struct {
    const uint8_t *first, *end; /* `end`: behind the last character */
    uint64_t digits;            /* without the point; wraps beyond MAX_DIGITS */
    int num_digits, num_decimals; /* leading zeros do not count as digits */
    int is_negative, is_whole, has_exponent;
} Number;

static int is_digit(uint8_t c) { return c >= '0' && c <= '9'; }

static const uint8_t *skip_space(const uint8_t *at)
{
    while (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')
        at++;
    return at;
}

/* Eight characters at once, the first one in the lowest byte, as fast_float has it (Lemire 2021). */
static uint64_t load_eight(const uint8_t *at)
{
    uint64_t eight;
    memcpy(&eight, at, sizeof eight);
    return eight;
}

static int are_digits(uint64_t eight)
{
    if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__)
        return 0; /* then one after the other */
    return !(((eight + 0x4646464646464646u) | (eight - 0x3030303030303030u)) & 0x8080808080808080u);
}

/* '0's before another digit. */
static int count_zeros(uint64_t eight)
{
    eight ^= 0x3030303030303030u;
    return eight ? __builtin_ctzll(eight) / 8 : 8;
}

static uint32_t value_of(uint64_t eight)
{
    eight -= 0x3030303030303030u;
    eight = eight * 10 + (eight >> 8); /* pairs */
    uint64_t outer = (eight & 0x000000ff000000ffu) * 0x000f424000000064u;
    uint64_t inner = (eight >> 16 & 0x000000ff000000ffu) * 0x0000271000000001u;
    return (uint32_t)((outer + inner) >> 32);
}

/* Where a number of JSON's grammar ends, NULL if there is none. */
static const uint8_t *scan_number(const uint8_t *at, const uint8_t *end, Number *number)
{
    uint64_t digits = 0;
    int num_digits = 0, num_decimals = 0;
    number->first = at;
    number->is_negative = *at == '-';
    at += number->is_negative;
    if (!is_digit(*at) || (*at == '0' && is_digit(at[1])))
        return NULL;
    for (; is_digit(*at); at++) {
        digits = digits * 10 + (*at - '0');
        num_digits += num_digits || *at != '0';
    }
    number->is_whole = *at != '.';
    if (!number->is_whole) {
        at++;
        if (!is_digit(*at))
            return NULL;
        const uint8_t *point = at;
        for (uint64_t eight; end - at >= 8 && are_digits(eight = load_eight(at)); at += 8) {
            num_digits += num_digits ? 8 : 8 - count_zeros(eight);
            digits = digits * 100000000 + value_of(eight);
        }
        for (; is_digit(*at); at++) {
            digits = digits * 10 + (*at - '0');
            num_digits += num_digits || *at != '0';
        }
        num_decimals = (int)(at - point);
    }
    number->has_exponent = *at == 'e' || *at == 'E';
    if (number->has_exponent) {
        number->is_whole = 0;
        at++;
        at += *at == '+' || *at == '-';
        if (!is_digit(*at))
            return NULL;
        while (is_digit(*at))
            at++;
    }
    number->end = at;
    number->digits = digits;
    number->num_digits = num_digits;
    number->num_decimals = num_decimals;
    return at;
}

/* The double nearest to digits / 10^num_decimals. For EXACT <= digits < 10^19 and 1 <= num_decimals <= 19: the quotient
 * has 62 or 63 bits, and whether something is left over is its lowest one, so it is rounded once. */
static double divide(uint64_t digits, int num_decimals)
{
    uint64_t divisor = TENS[num_decimals];
    int shift = 62 - (64 - __builtin_clzll(digits)) + (64 - __builtin_clzll(divisor));
    uint128 scaled = (uint128)digits << shift;
    uint64_t quotient = (uint64_t)(scaled / divisor);
    if ((uint128)quotient * divisor != scaled)
        quotient |= 1;
    uint64_t exponent = (uint64_t)(1023 - shift) << 52;
    double scale; /* 2^-shift, by which a product is exact */
    memcpy(&scale, &exponent, sizeof scale);
    return (double)quotient * scale;
}

/* 0 if it is declined. */
static int convert(const Number *number, double *value)
{
    double found;
    if (number->is_whole) {
        /* "-0" is an integer for some and a double for others. */
        if (number->num_digits > MAX_DIGITS || number->digits >= EXACT || (number->is_negative && !number->digits))
            return 0;
        found = (double)number->digits;
    } else if (!number->has_exponent && number->num_digits <= MAX_DIGITS && number->digits < EXACT &&
               number->num_decimals <= 22) {
        found = (double)number->digits / POWERS[number->num_decimals]; /* both exact: Clinger 1990 */
    } else if (!number->has_exponent && number->num_digits <= MAX_DIGITS && number->digits >= EXACT &&
               number->num_decimals <= MAX_DIGITS) {
        found = divide(number->digits, number->num_decimals);
    } else {
        char token[MAX_TOKEN];
        size_t length = (size_t)(number->end - number->first);
        if (length >= MAX_TOKEN)
            return 0;
        memcpy(token, number->first, length);
        token[length] = 0;
        found = PyOS_string_to_double(token, NULL, NULL);
        if (PyErr_Occurred()) {
            PyErr_Clear();
            return 0;
        }
        if (!isfinite(found))
            return 0;
        *value = found; /* with its sign */
        return 1;
    }
    *value = number->is_negative ? -found : found;
    return 1;
}

/* Behind the closing quote, NULL if it has none, or escapes. */
static const uint8_t *scan_text(const uint8_t *at)
{
    if (*at != '"')
        return NULL;
    for (at++; *at != '"'; at++)
        if (*at < 0x20 || *at == '\\')
            return NULL;
    return at + 1;
}

static const uint8_t *scan_word(const uint8_t *at, const uint8_t *end, const char *word)
{
    size_t length = strlen(word);
    return (size_t)(end - at) >= length && !memcmp(at, word, length) ? at + length : NULL;
}

/* Behind a value that nobody looks at, NULL if it is declined. */
static const uint8_t *scan_ignored(const uint8_t *at, const uint8_t *end)
{
    Number number;
    switch (*at) {
    case '"': return scan_text(at);
    case 't': return scan_word(at, end, "true");
    case 'f': return scan_word(at, end, "false");
    case 'n': return scan_word(at, end, "null");
    default:
        at = scan_number(at, end, &number);
        return at == NULL || number.has_exponent ? NULL : at;
    }
}

/* Behind the value of one row, NULL if it is declined. */
static const uint8_t *read_value(const uint8_t *first, const uint8_t *at, const uint8_t *end, Column *column,
                                 Py_ssize_t row)
{
    if (column->kind == IGNORED)
        return scan_ignored(at, end);
    if (*at == 'n') {
        column->valid[row / 8] &= (uint8_t) ~(1u << row % 8);
        column->num_nulls++;
        if (column->kind == NUMBER)
            ((double *)PyBytes_AS_STRING(column->values))[row] = Py_NAN;
        else
            column->places[2 * row] = column->places[2 * row + 1] = 0;
        return scan_word(at, end, "null");
    }
    if (column->kind == NUMBER) {
        Number number;
        double *values = (double *)PyBytes_AS_STRING(column->values);
        at = scan_number(at, end, &number);
        return at != NULL && convert(&number, &values[row]) ? at : NULL;
    }
    const uint8_t *behind = scan_text(at);
    if (behind == NULL)
        return NULL;
    uint32_t length = (uint32_t)(behind - at - 2);
    column->places[2 * row] = (uint32_t)(at + 1 - first);
    column->places[2 * row + 1] = length;
    column->num_bytes += length;
    return behind;
}

/* Behind the closing bracket, NULL if the rows are declined. There must be `num_rows`. */
static const uint8_t *read_all(const uint8_t *first, const uint8_t *at, const uint8_t *end, Column *columns,
                               Py_ssize_t num_columns, Py_ssize_t num_rows)
{
    for (Py_ssize_t row = 0; row < num_rows; row++) {
        at = skip_space(at);
        if (*at != '{')
            return NULL;
        at++;
        for (Py_ssize_t index = 0; index < num_columns; index++) {
            Column *column = &columns[index];
            at = skip_space(at);
            if (end - at < column->key_length || memcmp(at, column->key, (size_t)column->key_length))
                return NULL;
            at = skip_space(at + column->key_length);
            if (*at != ':')
                return NULL;
            at = read_value(first, skip_space(at + 1), end, column, row);
            if (at == NULL)
                return NULL;
            at = skip_space(at);
            if (*at != (index + 1 < num_columns ? ',' : '}'))
                return NULL;
            at++;
        }
        at = skip_space(at);
        if (*at != (row + 1 < num_rows ? ',' : ']'))
            return NULL;
        at++;
    }
    return at;
}

/* Arrow's offsets and characters of a column of text. */
static int gather_text(const uint8_t *first, const Column *column, Py_ssize_t num_rows, PyObject **offsets,
                       PyObject **characters)
{
    *offsets = PyBytes_FromStringAndSize(NULL, (num_rows + 1) * (Py_ssize_t)sizeof(int32_t));
    *characters = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)column->num_bytes);
    if (*offsets == NULL || *characters == NULL)
        return 0;
    int32_t *places = (int32_t *)PyBytes_AS_STRING(*offsets), reached = 0;
    char *to = PyBytes_AS_STRING(*characters);
    places[0] = 0;
    for (Py_ssize_t row = 0; row < num_rows; row++) {
        uint32_t length = column->places[2 * row + 1];
        memcpy(to + reached, first + column->places[2 * row], length);
        reached += (int32_t)length;
        places[row + 1] = reached;
    }
    return 1;
}

/* (valid or None, nulls, values or offsets, characters or None) */
static PyObject *describe(const uint8_t *first, Column *column, Py_ssize_t num_rows)
{
    PyObject *valid, *values, *characters;
    if (column->kind == IGNORED)
        Py_RETURN_NONE;
    if (column->kind == NUMBER) {
        values = Py_NewRef(column->values);
        characters = Py_NewRef(Py_None);
    } else if (!gather_text(first, column, num_rows, &values, &characters)) {
        Py_XDECREF(values);
        Py_XDECREF(characters);
        return NULL;
    }
    valid = column->num_nulls ? PyBytes_FromStringAndSize((char *)column->valid, (num_rows + 7) / 8)
                              : Py_NewRef(Py_None);
    return Py_BuildValue("(NnNN)", valid, column->num_nulls, values, characters);
}

static int make_column(Column *column, PyObject *key, char kind, Py_ssize_t num_rows)
{
    if (!PyBytes_Check(key)) {
        PyErr_Format(PyExc_TypeError, "a key must be bytes but is %R", key);
        return 0;
    }
    column->kind = (enum kind)kind;
    column->key = PyBytes_AS_STRING(key);
    column->key_length = PyBytes_GET_SIZE(key);
    if (kind == IGNORED)
        return 1;
    if (kind != NUMBER && kind != TEXT) {
        PyErr_Format(PyExc_ValueError, "a kind must be n, t or i but is %c", kind);
        return 0;
    }
    size_t num_bytes = (size_t)(num_rows + 7) / 8;
    column->valid = PyMem_Malloc(num_bytes);
    if (kind == NUMBER)
        column->values = PyBytes_FromStringAndSize(NULL, num_rows * (Py_ssize_t)sizeof(double));
    else
        column->places = PyMem_Malloc((size_t)num_rows * 2 * sizeof(uint32_t));
    if (column->valid == NULL || (column->values == NULL && column->places == NULL)) {
        PyErr_NoMemory();
        return 0;
    }
    memset(column->valid, 0xff, num_bytes);
    return 1;
}

static Py_ssize_t count_braces(const uint8_t *at, const uint8_t *end)
{
    Py_ssize_t count = 0;
    while ((at = memchr(at, '{', (size_t)(end - at))) != NULL) {
        count++;
        at++;
    }
    return count;
}

static PyObject *build(const uint8_t *first, const uint8_t *behind, Column *columns, Py_ssize_t num_columns,
                       Py_ssize_t num_rows)
{
    PyObject *described = PyTuple_New(num_columns);
    for (Py_ssize_t index = 0; described != NULL && index < num_columns; index++) {
        PyObject *column = describe(first, &columns[index], num_rows);
        if (column == NULL)
            Py_CLEAR(described);
        else
            PyTuple_SET_ITEM(described, index, column);
    }
    return described == NULL ? NULL : Py_BuildValue("(nnN)", (Py_ssize_t)(behind - first), num_rows, described);
}

static PyObject *read_rows(PyObject *module, PyObject *arguments)
{
    PyObject *body, *keys, *kinds, *result = NULL;
    Py_ssize_t start, min_rows, max_rows;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "SnO!Snn", &body, &start, &PyTuple_Type, &keys, &kinds, &min_rows, &max_rows))
        return NULL;
    Py_ssize_t num_columns = PyTuple_GET_SIZE(keys), length = PyBytes_GET_SIZE(body);
    if (PyBytes_GET_SIZE(kinds) != num_columns || start < 0 || start > length) {
        PyErr_SetString(PyExc_ValueError, "there must be one kind for each key, and the start within the body");
        return NULL;
    }
    const uint8_t *first = (const uint8_t *)PyBytes_AS_STRING(body), *end = first + length;
    Py_ssize_t num_rows = count_braces(first + start, end);
    if (!num_columns || length > INT32_MAX || num_rows < 1 || num_rows < min_rows || num_rows > max_rows)
        Py_RETURN_NONE;
    Column *columns = PyMem_Calloc((size_t)num_columns, sizeof(Column));
    if (columns == NULL)
        return PyErr_NoMemory();
    Py_ssize_t made = 0;
    while (made < num_columns &&
           make_column(&columns[made], PyTuple_GET_ITEM(keys, made), PyBytes_AS_STRING(kinds)[made], num_rows))
        made++;
    if (made == num_columns) {
        const uint8_t *behind = read_all(first, first + start, end, columns, num_columns, num_rows);
        result = behind == NULL ? Py_NewRef(Py_None) : build(first, behind, columns, num_columns, num_rows);
    }
    for (Py_ssize_t index = 0; index < num_columns; index++) {
        Py_XDECREF(columns[index].values);
        PyMem_Free(columns[index].places);
        PyMem_Free(columns[index].valid);
    }
    PyMem_Free(columns);
    return result;
}

static PyMethodDef METHODS[] = {
    {"read_rows", read_rows, METH_VARARGS, "See _json_rows.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "runtime.data._json_rows", NULL, -1, METHODS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__json_rows(void) { return PyModule_Create(&MODULE); }
