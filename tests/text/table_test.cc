#include "runtime/text/table.h"

#include <gtest/gtest.h>

#include <limits>

#include "runtime/text/figures.h"
#include "runtime/text/output_form.h"

namespace airlock {
namespace {

Table sample() {
  Table table({left("op"), "calls", {"total ms", "total_ns"}, {"", "secret"}});
  table.add({"matmul", 12, Cell::ms(1'234'567), "a,b"});
  table.add({"lm_head", 3, {}, {}});
  return table;
}

TEST(Table, lines_columns_up_for_a_terminal) {
  EXPECT_EQ(sample().aligned(),
            "op       calls  total ms\n"
            "matmul      12     1.235\n"
            "lm_head      3         -\n");
}

TEST(Table, leaves_no_space_at_the_end_of_a_line) {
  Table table({left("a"), left("b")});
  table.add({"longer", ""});
  EXPECT_EQ(table.aligned(), "a       b\nlonger\n");
}

TEST(Table, lines_columns_up_in_markdown) {
  EXPECT_EQ(sample().markdown(),
            "| op      | calls | total ms |\n"
            "| ------- | ----: | -------: |\n"
            "| matmul  |    12 |    1.235 |\n"
            "| lm_head |     3 |        - |\n");
  Table narrow({left("a"), "b"});
  narrow.add({"x", 1});
  EXPECT_EQ(narrow.markdown(),
            "| a   |   b |\n"
            "| --- | --: |\n"
            "| x   |   1 |\n");
}

TEST(Table, does_without_padding_in_markdown) {
  EXPECT_EQ(sample().markdown(Table::Padding::kNone),
            "| op | calls | total ms |\n"
            "| --- | ---: | ---: |\n"
            "| matmul | 12 | 1.235 |\n"
            "| lm_head | 3 | - |\n");
  Table empty({"a", "b"});
  empty.add({"", 1});
  EXPECT_EQ(empty.markdown(Table::Padding::kNone), "| a | b |\n| ---: | ---: |\n| | 1 |\n");
}

TEST(Table, gives_programs_exact_values_under_their_own_keys) {
  EXPECT_EQ(sample().csv(),
            "op,calls,total_ns,secret\n"
            "matmul,12,1234567,\"a,b\"\n"
            "lm_head,3,,\n");
  const auto objects = sample().json();
  ASSERT_EQ(objects.size(), 2U);
  EXPECT_EQ(objects[0].text(), R"({"op":"matmul","calls":12,"total_ns":1234567,"secret":"a,b"})");
  EXPECT_EQ(objects[1].text(), R"({"op":"lm_head","calls":3,"total_ns":null,"secret":null})");
}

TEST(Table, writes_rows_one_by_one_as_wide_as_their_columns_say) {
  const Table table({{"bytes", "", 8}, left("path", "", 6)});
  EXPECT_EQ(table.markdown_head(),
            "|    bytes | path   |\n"
            "| -------: | ------ |\n");
  EXPECT_EQ(table.markdown_row({64, "ring"}), "|       64 | ring   |\n");
  EXPECT_EQ(table.csv_head(), "bytes,path\n");
}

std::string json_of(const Cell& cell) {
  JsonObject object;
  cell.add_to(object, "k");
  return object.text();
}

TEST(Cell, keeps_every_bit_of_a_number) {
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(Cell(kMost).csv(), "18446744073709551615");
  EXPECT_EQ(json_of(kMost), R"({"k":18446744073709551615})");
  EXPECT_EQ(json_of(std::int64_t{-5}), R"({"k":-5})");
  EXPECT_EQ(Cell(0.1).csv(), "0.1");
  EXPECT_EQ(Cell::real(2, 3).csv(), "2.000");
  EXPECT_EQ(json_of(Cell::real(1.25, 3)), R"({"k":1.250})");
  EXPECT_EQ(Cell(std::optional<double>(0.5)).csv(), "0.5");
  EXPECT_EQ(Cell(std::optional<double>()).shown(), "-");
}

TEST(Cell, is_null_in_json_where_it_is_no_number) {
  EXPECT_EQ(json_of(std::numeric_limits<double>::quiet_NaN()), R"({"k":null})");
  EXPECT_EQ(json_of(Cell::real(std::numeric_limits<double>::infinity(), 2)), R"({"k":null})");
}

TEST(CsvLine, quotes_what_would_end_a_cell) {
  EXPECT_EQ(csv_line({"plain", "a,b", "say \"x\"", "two\nlines", {}}),
            "plain,\"a,b\",\"say \"\"x\"\"\",\"two\nlines\",\n");
}

TEST(Figures, are_written_as_people_read_them) {
  EXPECT_EQ(ms_text(12'345'678), "12.346");
  EXPECT_EQ(ms_text(12'345'678, 2), "12.35");
  EXPECT_EQ(size_text(512), "512 B");
  EXPECT_EQ(size_text(64 << 20), "64.00 MiB");
  EXPECT_EQ(size_text(std::uint64_t{3} << 60), "3145728.00 TiB");
  EXPECT_EQ(percent_text(1, 8), "12.5 %");
  EXPECT_EQ(percent_text(1, 0), "-");
}

TEST(OutputForm, is_named_as_the_option_takes_it) {
  EXPECT_EQ(names_of<OutputForm>(), "md, json, csv");
  EXPECT_EQ(from_name<OutputForm>("csv"), OutputForm::kCsv);
}

TEST(Table, shows_people_no_control_characters) {
  Table table({left("client"), "n"});
  table.add({std::string("a\x1b[31m\xc2\x9b") + "b", 1});
  for (const std::string& text : {table.aligned(), table.markdown()}) {
    EXPECT_EQ(text.find('\x1b'), std::string::npos);
    EXPECT_EQ(text.find("\xc2\x9b"), std::string::npos);
    EXPECT_NE(text.find("a?[31m??b"), std::string::npos) << text;
  }
  EXPECT_NE(table.csv().find('\x1b'), std::string::npos) << "programs read what there is";
}

}  // namespace
}  // namespace airlock
